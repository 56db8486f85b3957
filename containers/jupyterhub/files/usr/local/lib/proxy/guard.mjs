// Loaded before configurable-http-proxy's own program. Two headers reach the hub only, never a user's server: the ID token
// that a front end adds to each request, and the proof that a request came through this proxy. Without that proof the hub's
// port answers API calls only (common.py). The route decides who gets a request, and only the hub can set routes.
import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import http from "node:http";
import { pathToFileURL } from "node:url";

const TOKEN = "x-auth-id-token";
const PROXIED = "x-jupyterhub-proxied";
const ADDRESS = "x-real-ip";
const proxied = createHash("sha256").update(`proxied ${process.env.CONFIGPROXY_AUTH_TOKEN}`).digest("hex");

// With a domain for each user the hub's route is for all names. At users' names it must not answer: their pages would be of
// its origin. A probe comes by any name; the way to a server that isn't there is a redirect to the hub's own name.
const domain = process.env.DEPLOY_CONFIG_SUBDOMAIN_HOST && new URL(process.env.DEPLOY_CONFIG_SUBDOMAIN_HOST).hostname;
const base = (process.env.DEPLOY_CONFIG_BASE_URL ?? "").replace(/\/$/, "");
const hostname = (request) => (request.headers.host ?? "").toLowerCase().replace(/:\d*$/, "");
const anywhere = ({ url }) => url.split("?")[0] === `${base}/hub/health` || url.startsWith(`${base}/user/`);

const program = pathToFileURL(realpathSync(process.argv[1]));
const module = await import(new URL("../lib/configproxy.js", program));
const proxy = (module.ConfigurableProxy ?? module.default.ConfigurableProxy).prototype;

const { targetForReq, handleProxyError } = proxy;
if (!targetForReq || !handleProxyError) throw new Error("this configurable-http-proxy can't be guarded");

proxy.targetForReq = async function (request) {
    const match = await targetForReq.call(this, request);
    const route = match && (await this._routes.get(match.prefix));
    const toHub = route?.hub === true;
    if (toHub && domain && hostname(request) !== domain && !anywhere(request)) return undefined;
    for (const name of Object.keys(request.headers)) {
        const spelled = name.replaceAll("_", "-"); // node has them in lower case
        // The hub would believe a client's X-Real-IP. The address that this proxy adds is in X-Forwarded-For.
        if (spelled === PROXIED || spelled === ADDRESS || (spelled === TOKEN && !toHub)) delete request.headers[name];
    }
    if (toHub) request.headers[PROXIED] = proxied;
    return match;
};

// A path that isn't UTF-8 is the client's mistake: 400, not 500.
proxy.handleProxyError = function (code, kind, request, response, error) {
    const malformed = error instanceof URIError;
    return handleProxyError.call(this, malformed ? 400 : code, kind, request, response, malformed ? undefined : error);
};

// The proxy calls http.request(url string, URL) only to fetch the hub's error page.
const { request } = http;
http.request = (url, options, ...rest) =>
    typeof url === "string" && options instanceof URL
        ? request(url, { ...options, headers: { [PROXIED]: proxied } }, ...rest)
        : request(url, options, ...rest);
