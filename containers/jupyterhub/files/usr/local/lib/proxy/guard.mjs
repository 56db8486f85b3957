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
// The path that the hub is sent, which is without dots.
const pathname = ({ url }) => (url.startsWith("//") ? url : new URL(url, "http://localhost").pathname);
const anywhere = (path) => path === `${base}/hub/health` || path.startsWith(`${base}/user/`);

const program = pathToFileURL(realpathSync(process.argv[1]));
const module = await import(new URL("../lib/configproxy.js", program));
const proxy = (module.ConfigurableProxy ?? module.default.ConfigurableProxy).prototype;

const { handleApiRequest, handleProxyError, handleProxyWs, targetForReq } = proxy;
if (!handleApiRequest || !handleProxyError || !handleProxyWs || !targetForReq)
    throw new Error("this configurable-http-proxy can't be guarded");

// A request that is the client's mistake.
class Refused extends Error {
    constructor(status) {
        super();
        this.status = status;
    }
}
// http-proxy says of these that they have no body, and sends it all the same: the hub would take it for the next request on
// its connection, which is another user's.
const WITHOUT_BODY = new Set(["DELETE", "OPTIONS"]);

proxy.targetForReq = async function (request) {
    if (request.headers["transfer-encoding"] && WITHOUT_BODY.has(request.method)) throw new Refused(411);
    const match = await targetForReq.call(this, request).catch(() => {
        throw new Refused(400); // such as a path that isn't UTF-8
    });
    const route = match && (await this._routes.get(match.prefix));
    const toHub = route?.hub === true;
    if (toHub && domain && hostname(request) !== domain && !anywhere(pathname(request))) return undefined;
    for (const name of Object.keys(request.headers)) {
        const spelled = name.replaceAll("_", "-"); // node has them in lower case
        // The hub would believe a client's X-Real-IP. The address that this proxy adds is in X-Forwarded-For.
        if (spelled === PROXIED || spelled === ADDRESS || (spelled === TOKEN && !toHub)) delete request.headers[name];
    }
    if (toHub) request.headers[PROXIED] = proxied;
    return match;
};

proxy.handleProxyError = function (code, kind, request, response, error) {
    const refused = error instanceof Refused;
    handleProxyError.call(this, refused ? error.status : code, kind, request, response, refused ? undefined : error);
    if (kind === "ws") response?.destroySoon(); // the socket
};

proxy.handleProxyWs = function (request, socket, head) {
    socket.on("error", () => socket.destroy());
    // Nobody would send the hub a body, for which it would wait.
    delete request.headers["content-length"];
    delete request.headers["transfer-encoding"];
    return handleProxyWs.call(this, request, socket, head);
};

// The proxy calls http.request(url string, URL) only to fetch the hub's error page.
const { request } = http;
http.request = (url, options, ...rest) =>
    typeof url === "string" && options instanceof URL
        ? request(url, { ...options, headers: { [PROXIED]: proxied } }, ...rest)
        : request(url, options, ...rest);

// The API reads a body of any length before it looks at the token, and jobs reach its port.
proxy.handleApiRequest = function (request, response) {
    if (request.headers.authorization === `token ${this.authToken}`) return handleApiRequest.call(this, request, response);
    response.writeHead(403, { Connection: "close" });
    response.end();
};
