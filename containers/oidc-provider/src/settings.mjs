// The deployment's settings (DEPLOY_CONFIG_* variables) and secrets (files that only this process can read).

import { readFileSync } from 'node:fs';

const SECRETS = '/run/oidc-provider';

/** Return the setting `name`, or `fallback` where it is not set or empty. */
export function setting(name, fallback) {
  return process.env[`DEPLOY_CONFIG_${name}`] || fallback;
}

/** Return the content of the secret `name`. It is read each time, since keys can be rotated. */
export function secret(name) {
  return readFileSync(`${SECRETS}/${name}`, 'utf8').trim();
}

export const issuer = new URL(setting('OIDC_SERVER', 'http://127.0.0.1:9000'));
export const baseUrl = setting('BASE_URL', '').replace(/\/$/, '');
export const platform = setting('BRICS_PLATFORM', 'dev.platform');
const portal = setting('BRICS_PORTAL', 'brics');

/** The URLs at which browsers find the gateway: the deployment's, and its other name on this host. */
export const gateways = originsOf(setting('GATEWAY_URL', 'http://127.0.0.1:8000'));

function originsOf(url) {
  const other = new URL(url);
  if (other.hostname === '127.0.0.1') other.hostname = 'localhost';
  return [...new Set([new URL(url).origin, other.origin])];
}

/** The names of each dev user's projects, in the order of the setting. */
export const devUsers = new Map();
for (const account of setting('DEV_USERS', '').split(/\s+/).filter(Boolean)) {
  const [user, project] = account.split('.');
  devUsers.set(user, [...(devUsers.get(user) ?? []), project]);
}

/** Return the `projects` claim of `user`; empty if it isn't a dev user. */
export function projectsClaim(user) {
  return Object.fromEntries(
    (devUsers.get(user) ?? []).map((project) => [
      `${project}.${portal}`,
      { name: `Project ${project}`, resources: [{ name: platform, username: `${user}.${project}` }] },
    ]),
  );
}
