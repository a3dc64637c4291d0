/** The HTTP client of S3: connections of its own, limits of time for silence, and paths as they are meant. */
import type * as HttpClient from "@effect/platform/HttpClient"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as HttpTransport from "@underlay/core/external/HttpTransport"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Transport from "../http/transport.ts"
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
  // The limit of a request is that of its call: CompleteMultipartUpload says nothing for minutes.
  Effect.map(Transport.connections(at, options), (connections) => {
    const dispatch: Transport.Connections["dispatch"] = (options, handler) =>
      connections.dispatch(options.path.includes("!") ? { ...options, path: unmark(options.path) } : options, handler)
    return HttpTransport.fromDispatcher({ dispatch })
  })
