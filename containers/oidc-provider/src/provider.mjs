// oidc-provider, set up for one client (the gateway), with people who share one password.

import { timingSafeEqual } from 'node:crypto';

import { Provider, errors } from 'oidc-provider';

import * as pages from './pages.mjs';
import { baseUrl, devUsers, gateways, issuer, platform, projectsClaim, secret, setting } from './settings.mjs';
import { Store } from './store.mjs';

// Seconds of a working day: how long a sign-in lasts while the gateway renews tokens.
const SESSION_SECONDS = 12 * 3600;
// Keys last as long as the deployment. A client that sees an unknown key fetches them again.
const PUBLIC_SECONDS = 3600;
// Those that the hub's authenticator accepts.
const SHORT_NAME = /^[a-z_][a-z0-9_-]{0,31}$/;
const MAX_FORM_BYTES = 4096;
// The path below which browsers send their session cookie.
const BROWSERS = '/oidc';

const home = `${gateways[0]}${baseUrl}/`;
const clientId = setting('JWT_AUDIENCE', 'jupyterhub');
const asks = setting('PROVIDER_ASKS', 'true') === 'true';
const lifetime = Number(setting('TOKEN_LIFETIME', '3600'));

/** Return a provider that signs with the present keys. */
export function makeProvider() {
  const provider = new Provider(issuer.origin, {
    adapter: Store,
    jwks: JSON.parse(secret('jwks')),
    clients: [
      {
        client_id: clientId,
        client_secret: secret('client_secret'),
        redirect_uris: gateways.map((gateway) => `${gateway}${baseUrl}/_oidc/callback`),
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        require_auth_time: true,
      },
    ],
    cookies: {
      keys: [secret('cookie_keys')],
      // Browsers send a host's cookies to all its ports, so each provider on a host needs other names.
      names: { session: cookie('session'), interaction: cookie('interaction'), resume: cookie('resume') },
      // Keep them from the gateway, which is on the same host.
      long: { httpOnly: true, sameSite: 'lax', path: BROWSERS },
    },
    routes: { authorization: `${BROWSERS}/auth`, end_session: `${BROWSERS}/session/end` },
    claims: { openid: ['sub', 'short_name', 'projects'] },
    conformIdTokenClaims: false, // all claims in the ID token
    responseTypes: ['code'],
    pkce: { required: () => true },
    ttl: {
      AccessToken: lifetime,
      IdToken: lifetime,
      AuthorizationCode: 60,
      Interaction: 3600,
      Session: SESSION_SECONDS,
      Grant: SESSION_SECONDS,
      RefreshToken: SESSION_SECONDS,
    },
    // The gateway renews tokens while its user is active. Refresh tokens end with the session.
    issueRefreshToken: () => true,
    rotateRefreshToken: false,
    findAccount: (ctx, name) => ({
      accountId: name,
      claims: () => ({ sub: name, short_name: name, projects: projectsClaim(name) }),
    }),
    loadExistingGrant,
    renderError: (ctx, out) => show(ctx, pages.message('Something went wrong', out.error_description ?? out.error, home)),
    features: {
      devInteractions: { enabled: false },
      dPoP: { enabled: false },
      pushedAuthorizationRequests: { enabled: false },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: (ctx, form) => show(ctx, pages.logOut(form)),
        postLogoutSuccessSource: (ctx) => show(ctx, pages.message('You are signed out', 'See you again.', home)),
      },
    },
  });
  provider.Client.prototype.postLogoutRedirectUriAllowed = (uri) => gateways.includes(URL.parse(uri)?.origin);
  provider.use(logRequest);
  provider.use(extras(provider));
  logEvents(provider);
  return provider;
}

function cookie(name) {
  return `oidc_provider_${issuer.port}_${name}`;
}

function show(ctx, html) {
  ctx.type = 'html';
  ctx.set('Content-Security-Policy', pages.POLICY);
  ctx.set('Cache-Control', 'no-store');
  ctx.body = html;
}

/** Grant the gateway everything without asking for consent. */
async function loadExistingGrant(ctx) {
  const { client, session, provider } = ctx.oidc;
  const grantId = session.grantIdFor(client.clientId);
  const existing = grantId && (await provider.Grant.find(grantId));
  if (existing) return existing;
  const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope('openid');
  await grant.save();
  return grant;
}

/** Add the log-in page, and the entry through which the gateway sends people here. */
function extras(provider) {
  return async (ctx, next) => {
    if (ctx.path.startsWith('/interaction/')) {
      await logIn(ctx, provider);
    } else if (ctx.path === '/begin') {
      // The gateway proxies this request, so it can show its "try later" page while the provider is down.
      ctx.status = 303;
      ctx.set('Cache-Control', 'no-store');
      ctx.set('Location', `${issuer.origin}${BROWSERS}/auth${ctx.search}`);
    } else {
      await next();
      if (['discovery', 'jwks'].includes(ctx.oidc?.route)) ctx.set('Cache-Control', `public, max-age=${PUBLIC_SECONDS}`);
    }
  };
}

async function logIn(ctx, provider) {
  try {
    await provider.interactionDetails(ctx.req, ctx.res);
  } catch (error) {
    if (!(error instanceof errors.SessionNotFound)) throw error;
    show(ctx, pages.message('Please start again', 'This log-in is over, or was begun in another browser.', home));
    ctx.status = 400;
    return;
  }
  if (ctx.method !== 'POST') {
    show(ctx, pages.logIn(devUsers, platform, asks));
    return;
  }
  const sent = await form(ctx);
  if (asks && !isPassword(sent.get('password') ?? '')) {
    show(ctx, pages.logIn(devUsers, platform, asks, 'That is not the password.'));
    ctx.status = 403;
    return;
  }
  const name = (sent.get('login') || sent.get('other') || '').trim();
  if (!SHORT_NAME.test(name)) {
    const rule = "A short name has 1 to 32 lower-case letters, digits, '_' and '-', and starts with a letter or '_'.";
    show(ctx, pages.logIn(devUsers, platform, asks, rule));
    ctx.status = 400;
    return;
  }
  ctx.status = 303;
  ctx.set('Location', await provider.interactionResult(ctx.req, ctx.res, { login: { accountId: name } }));
}

function isPassword(text) {
  const [given, expected] = [text.trim(), secret('provider_password')].map((each) => Buffer.from(each));
  return given.length === expected.length && timingSafeEqual(given, expected);
}

async function form(ctx) {
  let text = '';
  for await (const chunk of ctx.req) {
    text += chunk;
    if (text.length > MAX_FORM_BYTES) ctx.throw(413);
  }
  return new URLSearchParams(text);
}

/** Log the path of a request. The query is left out, since it can contain codes. */
async function logRequest(ctx, next) {
  const start = performance.now();
  await next();
  console.log(`${ctx.method} ${ctx.path} ${ctx.status} ${Math.round(performance.now() - start)} ms`);
}

/** Log sign-ins, sign-outs and failures; never a token or a code. */
function logEvents(provider) {
  provider.on('authorization.success', (ctx) => console.log(`signed in: ${ctx.oidc.session.accountId}`));
  provider.on('end_session.success', () => console.log('signed out'));
  for (const event of ['authorization.error', 'grant.error', 'end_session.error', 'userinfo.error', 'server_error']) {
    provider.on(event, (ctx, error) => console.error(`${event}: ${error.error_description ?? error.stack}`));
  }
}
