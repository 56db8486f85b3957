// The provider's sessions, grants, codes and tokens. They are in memory, so a restart signs everybody out.

const SWEEP_SECONDS = 60;

const records = new Map();

setInterval(() => {
  const now = Date.now();
  for (const [key, record] of records) if (record.expires < now) records.delete(key);
}, SWEEP_SECONDS * 1000).unref();

/** oidc-provider's storage adapter for one `model`; all instances share the records, also across new keys. */
export class Store {
  constructor(model) {
    this.model = model;
  }

  #key(id) {
    return `${this.model}:${id}`;
  }

  #first(property, value) {
    for (const { model, payload, expires } of records.values()) {
      if (model === this.model && payload[property] === value && expires > Date.now()) return payload;
    }
    return undefined;
  }

  /** Keep `payload` for `seconds`. */
  async upsert(id, payload, seconds) {
    records.set(this.#key(id), { model: this.model, payload, expires: Date.now() + seconds * 1000 });
  }

  async find(id) {
    const record = records.get(this.#key(id));
    return record?.expires > Date.now() ? record.payload : undefined;
  }

  async findByUid(uid) {
    return this.#first('uid', uid);
  }

  async findByUserCode(userCode) {
    return this.#first('userCode', userCode);
  }

  async consume(id) {
    const record = records.get(this.#key(id));
    if (record) record.payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    records.delete(this.#key(id));
  }

  async revokeByGrantId(grantId) {
    for (const [key, { payload }] of records) if (payload.grantId === grantId) records.delete(key);
  }
}
