/** A proxy of one HTTP server whose answers a test can change, lose, or break off. */
import * as Http from "node:http"
import { Effect } from "effect"

export interface Asked {
  readonly method: string
  readonly url: string
  readonly headers: Http.IncomingHttpHeaders
}

export type Fault =
  /** An answer in place of the server's, which is not asked. */
  | {
      readonly _tag: "Answer"
      readonly status: number
      readonly headers?: Record<string, string>
      readonly body?: string
    }
  /** The server does it, and its answer is lost. */
  | { readonly _tag: "Lose" }
  /** The connection breaks after so many bytes of the answer's body. */
  | { readonly _tag: "Break"; readonly after: number }
  /** More headers to the server's answer. */
  | { readonly _tag: "Headers"; readonly headers: Record<string, string> }

export interface HttpProxy {
  readonly endpoint: string
  readonly asked: Array<Asked>
  /** What happens to a request; nothing for most. */
  fault: (asked: Asked) => Fault | undefined
}

export const make = (target: { readonly host: string; readonly port: number }) =>
  Effect.acquireRelease(
    Effect.async<{ readonly proxy: HttpProxy; readonly server: Http.Server }>((resume) => {
      const agent = new Http.Agent({ keepAlive: false })
      const asked: Array<Asked> = []
      const proxy: HttpProxy = { endpoint: "", asked, fault: () => undefined }
      const server = Http.createServer((request, response) => {
        const one = { method: request.method ?? "", url: request.url ?? "", headers: request.headers }
        asked.push(one)
        const fault = proxy.fault(one)
        if (fault?._tag === "Answer") {
          request.resume()
          request.on("end", () => {
            response.writeHead(fault.status, fault.headers ?? {})
            response.end(fault.body ?? "")
          })
          return
        }
        const forwarded = Http.request(
          { ...target, agent, method: one.method, path: one.url, headers: request.headers },
          (answer) => {
            if (fault?._tag === "Lose") {
              answer.resume()
              answer.on("end", () => request.socket.destroy())
              return
            }
            response.writeHead(answer.statusCode ?? 500, {
              ...answer.headers,
              ...(fault?._tag === "Headers" ? fault.headers : {})
            })
            if (fault?._tag !== "Break") {
              answer.pipe(response)
              return
            }
            let left = fault.after
            answer.on("data", (bytes: Buffer) => {
              const part = bytes.subarray(0, left)
              left -= part.length
              if (left > 0) response.write(part)
              else {
                answer.destroy()
                response.write(part, () => request.socket.destroy())
              }
            })
          }
        )
        forwarded.on("error", () => request.socket.destroy())
        response.on("close", () => forwarded.destroy())
        request.pipe(forwarded)
      })
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(Effect.succeed({ proxy: Object.assign(proxy, { endpoint: `http://127.0.0.1:${port}` }), server }))
      })
    }),
    ({ server }) =>
      Effect.async<void>((resume) => {
        server.closeAllConnections()
        server.close(() => resume(Effect.void))
      })
  ).pipe(Effect.map(({ proxy }) => proxy))
