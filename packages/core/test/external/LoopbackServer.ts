/** An HTTP server on 127.0.0.1 that answers by a script and writes down what it was asked. */

import * as Http from "node:http"
import { Effect } from "effect"

export interface Asked {
  readonly method: string
  readonly url: string
  readonly headers: Http.IncomingHttpHeaders
  readonly at: number
}

export type Answer = (request: Http.IncomingMessage, response: Http.ServerResponse) => void

export const status =
  (code: number, headers: Record<string, string> = {}, body = ""): Answer =>
  (_, response) => {
    response.writeHead(code, headers)
    response.end(body)
  }

/** The n-th request gets the n-th answer, and the last answer again and again. */
export const make = (answers: ReadonlyArray<Answer>) =>
  Effect.acquireRelease(
    Effect.async<{
      readonly url: string
      readonly port: number
      readonly asked: Array<Asked>
      readonly server: Http.Server
    }>((resume) => {
      const asked: Array<Asked> = []
      const server = Http.createServer((request, response) => {
        asked.push({
          method: request.method ?? "",
          url: request.url ?? "",
          headers: request.headers,
          at: performance.now()
        })
        const answer = answers[Math.min(asked.length, answers.length) - 1]
        request.resume()
        if (answer === undefined) response.destroy()
        else answer(request, response)
      })
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(Effect.succeed({ url: `http://127.0.0.1:${port}`, port, asked, server }))
      })
    }),
    ({ server }) =>
      Effect.async<void>((resume) => {
        server.closeAllConnections()
        server.close(() => resume(Effect.void))
      })
  )
