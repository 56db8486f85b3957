// Loaded before configurable-http-proxy's own program. Node refuses a request that it can't read, such as one with too long
// headers, and closes the connection at once. If the client is still sending, the connection is reset and the answer lost.
// This reads and discards the rest of the request first. It also gives a request more time: node's five minutes are not
// enough to save a large notebook over a slow line.
"use strict";
const http = require("node:http");

const LINGER = 2000; // milliseconds
const LONGEST = 3_600_000; // milliseconds until a request has arrived whole; its headers have a minute
const STATUS = {
    HPE_HEADER_OVERFLOW: "431 Request Header Fields Too Large",
    ERR_HTTP_REQUEST_TIMEOUT: "408 Request Timeout",
};
const answered = new WeakSet();
const { createServer } = http;

http.createServer = (...options) => {
    const server = createServer(...options);
    server.requestTimeout = LONGEST;
    return server.on("clientError", (error, socket) => {
        if (answered.has(socket)) return; // once for each piece of the rest
        answered.add(socket);
        if (!socket.writable) {
            socket.destroy();
            return;
        }
        const status = STATUS[error.code] ?? "400 Bad Request";
        socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
        setTimeout(() => socket.destroy(), LINGER).unref();
    });
};
