/**
 * What doubles of services over HTTP have in common: a server on loopback that counts what it is asked, knows its open
 * sockets, and can be told to misbehave.
 */
import * as Http from "node:http"
import type { AddressInfo, Socket } from "node:net"
import { Effect, type Scope } from "effect"
import type { OpenApi } from "./OpenApi.ts"

export interface Asked {
  readonly method: string
  readonly url: URL
  readonly headers: Http.IncomingHttpHeaders
  readonly body: Buffer
  readonly json: unknown
}

export interface Answer {
  readonly status: number
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** A misbehaviour: it answers itself, or gives false for the next one to be asked. */
export type Fault = (asked: Asked, response: Http.ServerResponse) => boolean

export interface HttpDouble {
  readonly origin: string
  readonly asked: Array<Asked>
  readonly sockets: () => number
  /** Misbehaves in the next requests that `fault` takes, so many times. */
  readonly next: (fault: Fault, times?: number) => void
  readonly api: OpenApi | undefined
}

export const start = (
  api: OpenApi | undefined,
  handle: (asked: Asked) => Answer | undefined
): Effect.Effect<HttpDouble, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<{ readonly server: Http.Server; readonly double: HttpDouble; readonly open: Set<Socket> }>(
      (resume) => {
        const open = new Set<Socket>()
        const asked: Array<Asked> = []
        const faults: Array<{ fault: Fault; times: number }> = []
        const server = Http.createServer((request, response) => {
          const parts: Array<Buffer> = []
          request.on("error", () => undefined)
          response.on("error", () => undefined)
          request.on("data", (part: Buffer) => parts.push(part))
          request.on("end", () => {
            const url = new URL(request.url ?? "/", double.origin)
            const body = Buffer.concat(parts)
            const type = request.headers["content-type"]
            const isJson = type?.startsWith("application/json") === true
            const one: Asked = {
              method: request.method ?? "GET",
              url,
              headers: request.headers,
              body,
              json: isJson && body.length > 0 ? JSON.parse(body.toString()) : undefined
            }
            asked.push(one)
            api?.request(one.method, url, type, isJson ? body.toString() : body.length > 0 ? "form" : "")
            for (const entry of faults) {
              if (!entry.fault(one, response)) continue
              if (--entry.times <= 0) faults.splice(faults.indexOf(entry), 1)
              return
            }
            const answer = handle(one) ?? { status: 404, body: { errorMessages: ["not found"], errors: {} } }
            const bytes = Buffer.isBuffer(answer.body)
              ? answer.body
              : Buffer.from(answer.body === undefined ? "" : JSON.stringify(answer.body))
            if (!Buffer.isBuffer(answer.body)) api?.answer(one.method, url, answer.status, bytes.toString())
            response.writeHead(answer.status, {
              ...(answer.body === undefined
                ? {}
                : { "content-type": Buffer.isBuffer(answer.body) ? "application/octet-stream" : "application/json" }),
              ...answer.headers
            })
            response.end(answer.status === 204 ? undefined : bytes)
          })
        })
        server.on("connection", (socket) => {
          open.add(socket)
          socket.on("error", () => undefined)
          socket.on("close", () => open.delete(socket))
        })
        let double: HttpDouble = {
          origin: "http://127.0.0.1",
          asked,
          sockets: () => open.size,
          next: (fault, times = 1) => {
            faults.push({ fault, times })
          },
          api
        }
        server.listen(0, "127.0.0.1", () => {
          double = { ...double, origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
          resume(Effect.succeed({ server, double, open }))
        })
      }
    ),
    ({ open, server }) =>
      Effect.async<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of open) socket.destroy()
      })
  ).pipe(Effect.map(({ double }) => double))

export const fields = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null ? { ...value } : {}
