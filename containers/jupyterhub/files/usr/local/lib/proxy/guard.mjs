// Loaded before configurable-http-proxy's own program. What is for the hub alone goes nowhere else: the ID token that a front
// end puts into each request, and the word that a request came by this proxy, without which the hub's port answers calls to
// its API only (common.py). Whose a request is, its route says, which only the hub can set.
import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import http from "node:http";
import { pathToFileURL } from "node:url";

const TOKEN = "x-auth-id-token";
const PROXIED = "x-jupyterhub-proxied";
const ADDRESS = "x-real-ip";
const proxied = createHash("sha256").update(`proxied ${process.env.CONFIGPROXY_AUTH_TOKEN}`).digest("hex");

const program = pathToFileURL(realpathSync(process.argv[1]));
const module = await import(new URL("../lib/configproxy.js", program));
const proxy = (module.ConfigurableProxy ?? module.default.ConfigurableProxy).prototype;

const { targetForReq, handleProxyError } = proxy;
if (!targetForReq || !handleProxyError) throw new Error("this configurable-http-proxy can't be guarded");

proxy.targetForReq = async function (request) {
    const match = await targetForReq.call(this, request);
    const route = match && (await this._routes.get(match.prefix));
    const toHub = route?.hub === true;
    for (const name of Object.keys(request.headers)) {
        const spelled = name.replaceAll("_", "-"); // node has them in lower case
        // The hub would take a client's own word for its address; what this proxy adds is X-Forwarded-For.
        if (spelled === PROXIED || spelled === ADDRESS || (spelled === TOKEN && !toHub)) delete request.headers[name];
    }
    if (toHub) request.headers[PROXIED] = proxied;
    return match;
};

// A path that isn't UTF-8 is the client's mistake.
proxy.handleProxyError = function (code, kind, request, response, error) {
    const malformed = error instanceof URIError;
    return handleProxyError.call(this, malformed ? 400 : code, kind, request, response, malformed ? undefined : error);
};

// The hub's page for an error is asked for by this alone.
const { request } = http;
http.request = (url, options, ...rest) =>
    typeof url === "string" && options instanceof URL
        ? request(url, { ...options, headers: { [PROXIED]: proxied } }, ...rest)
        : request(url, options, ...rest);
