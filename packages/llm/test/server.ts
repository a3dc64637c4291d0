/** A loopback server that speaks HTTP as a test says, and sees what becomes of its connections. */
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import { Effect, type Scope } from "effect"

export interface Seen {
  readonly method: string
  readonly path: string
  readonly headers: Http.IncomingHttpHeaders
  readonly body: string
  readonly at: number
}

export interface Exchange {
  readonly request: Seen
  readonly response: Http.ServerResponse
  /** Counts from 0. */
  readonly index: number
}

export interface Server {
  readonly url: string
  readonly seen: ReadonlyArray<Seen>
  /** How many responses lost their connection before they were ended. */
  readonly aborted: () => number
}

export const serve = (handle: (exchange: Exchange) => void): Effect.Effect<Server, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.async<{ readonly server: Http.Server; readonly state: { seen: Array<Seen>; aborted: number } }>(
        (resume) => {
          const state = { seen: [] as Array<Seen>, aborted: 0 }
          const server = Http.createServer((incoming, response) => {
            const chunks: Array<Buffer> = []
            incoming.on("data", (chunk: Buffer) => chunks.push(chunk))
            incoming.on("end", () => {
              const request: Seen = {
                method: incoming.method ?? "",
                path: incoming.url ?? "",
                headers: incoming.headers,
                body: Buffer.concat(chunks).toString("utf8"),
                at: performance.now()
              }
              state.seen.push(request)
              response.on("close", () => {
                if (!response.writableFinished) state.aborted++
              })
              handle({ request, response, index: state.seen.length - 1 })
            })
          })
          server.listen(0, "127.0.0.1", () => resume(Effect.succeed({ server, state })))
        }
      ),
      ({ server }) =>
        Effect.async<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    ),
    ({ server, state }) => ({
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      seen: state.seen,
      aborted: () => state.aborted
    })
  )

export const chunk = (delta: unknown, finish: string | null = null, rest: Record<string, unknown> = {}): string =>
  `data: ${JSON.stringify({ id: "c1", model: "m-2026", choices: [{ index: 0, delta, finish_reason: finish }], ...rest })}\n\n`

export const usage = { prompt_tokens: 12, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 5 } }

export const streamed = (...texts: ReadonlyArray<string>): string =>
  [
    ...texts.map((content) => chunk({ content })),
    chunk({}, "stop"),
    `data: ${JSON.stringify({ id: "c1", model: "m-2026", choices: [], usage })}\n\n`,
    "data: [DONE]\n\n"
  ].join("")

export const answered = (content: string): string =>
  JSON.stringify({
    id: "c1",
    model: "m-2026",
    choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }],
    usage
  })

export const json = (
  response: Http.ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {}
): void => {
  response.writeHead(status, { "content-type": "application/json", ...headers })
  response.end(typeof body === "string" ? body : JSON.stringify(body))
}

export const sse = (response: Http.ServerResponse, body: string): void => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  response.end(body)
}
