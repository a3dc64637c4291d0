/** The HTTP client of S3: connections of its own, limits of time for silence, and paths as they are meant. */
import type * as HttpClient from "@effect/platform/HttpClient"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as HttpTransport from "@underlay/core/external/HttpTransport"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { load } from "../driver.ts"
import { unmark } from "./address.ts"

export const make = (
  at: { readonly kind: string; readonly name: string },
  options: {
    readonly connections: number
    readonly connectTimeout: Duration.DurationInput
    readonly idleTimeout: Duration.DurationInput
    readonly tls: HttpTransport.Tls | undefined
  }
): Effect.Effect<HttpClient.HttpClient, ConnectionError, Scope.Scope> =>
  Effect.gen(function* () {
    const { Agent } = yield* load(at, "undici", "7", () => import("undici"))
    const idle = Math.ceil(Duration.toMillis(options.idleTimeout))
    const agent = yield* Effect.acquireRelease(
      Effect.try({
        try: () =>
          new Agent({
            connections: options.connections,
            connectTimeout: Math.ceil(Duration.toMillis(options.connectTimeout)),
            // The limit of a request is that of its call: CompleteMultipartUpload says nothing for minutes.
            headersTimeout: 0,
            bodyTimeout: idle,
            ...(options.tls === undefined ? {} : { connect: { ...options.tls } as object })
          }),
        catch: (cause) =>
          new ConnectionError({
            reason: "InvalidSettings",
            kind: at.kind,
            connection: at.name,
            method: "make",
            description: "the settings of the transport cannot work: see the cause",
            cause
          })
      }),
      (agent) => Effect.promise(() => agent.destroy())
    )
    type Options = Parameters<typeof agent.dispatch>[0]
    type Handler = Parameters<typeof agent.dispatch>[1]
    return HttpTransport.fromDispatcher({
      dispatch: (options: Options, handler: Handler) =>
        agent.dispatch(options.path.includes("!") ? { ...options, path: unmark(options.path) } : options, handler)
    })
  })
