/**
 * The assistant as a service on a port: it starts listening when everything behind it is ready, and stops in order: no new
 * questions, answers to their end, connections.
 *
 * @since 0.1.0
 */
import * as Http from "node:http"
import type { HttpServer } from "@effect/platform"
import { NodeHttpServer } from "@effect/platform-node"
import type { Health } from "@underlay/core"
import { Effect, Layer, Schema } from "effect"
import { Assistant } from "./Assistant.ts"
import * as HttpLayer from "./Http.ts"
import type { Parts } from "./Parts.ts"
import type { Runbooks } from "./Runbooks.ts"

/**
 * The address cannot be listened on. The message says what to do.
 *
 * @since 0.1.0
 * @category errors
 */
export class ListenError extends Schema.TaggedError<ListenError>()("ListenError", {
  description: Schema.String,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    return this.description
  }
}

/**
 * Where to listen, and where the page's files are. Port 0 takes a free one.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  readonly host: string
  readonly port: number
  readonly page: string
}

const problemOf = (cause: unknown, { host, port }: Options): string => {
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined
  switch (code) {
    case "EADDRINUSE":
      return `Port ${port} on ${host} is taken by another program. Choose another: npm start -- --port ${port + 1} (or PORT=${port + 1}).`
    case "EACCES":
      return `This user may not listen on port ${port}. Choose one above 1024: npm start -- --port 3000.`
    default:
      return `The service cannot listen on ${host}:${port}: ${cause instanceof Error ? cause.message : String(cause)}`
  }
}

/** How long what is no answer (a health check, a page) may still take after the answers have ended. */
const lastRequests = 400

/**
 * The service. When its scope closes, answers that are being written may finish; those that do not in time get a closing
 * event; then connections are closed. All of that takes less than five seconds.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options
): Layer.Layer<HttpServer.HttpServer, ListenError, Assistant | Health.Health | Parts | Runbooks> =>
  Layer.suspend(() => {
    const server = Http.createServer()
    const listening = NodeHttpServer.layer(() => server, { host: options.host, port: options.port }).pipe(
      Layer.catchAll((error) =>
        Layer.fail(new ListenError({ description: problemOf(error.cause, options), cause: error.cause }))
      )
    )
    const drained = Layer.scopedDiscard(
      Effect.flatMap(Assistant, (assistant) =>
        Effect.addFinalizer(() =>
          Effect.andThen(
            assistant.drain,
            Effect.sync(() => {
              server.closeIdleConnections()
              setTimeout(() => server.closeAllConnections(), lastRequests).unref()
            })
          )
        )
      )
    )
    return drained.pipe(
      Layer.provide(HttpLayer.layer({ page: options.page }).pipe(Layer.orDie)),
      Layer.provideMerge(listening)
    )
  })
