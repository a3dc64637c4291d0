/** What vector stores that are reached by HTTP share as connections: their settings, and what is made of them. */
import { ConnectionError, type ConnectMode, Fields, type Plane } from "@underlay/core/connection/Connection"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import type * as HttpTransport from "@underlay/core/external/HttpTransport"
import * as VectorStore from "@underlay/core/storage/VectorStore"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as HttpConnection from "../http/httpConnection.ts"
import { sender } from "./remoteStore.ts"

export type Store = Context.Tag.Service<VectorStore.VectorStore>

export interface Settings {
  readonly url: string | URL
  /** `external` (each request is watched) or `internal` (nothing is shown): external. */
  readonly plane?: Plane | undefined
  /** `eager` proves that the server can be reached before anything starts: eager. */
  readonly connect?: ConnectMode | undefined
  /** The limit of a request with its retries: 30 s. */
  readonly timeout?: Duration.DurationInput | undefined
  /** Connections at the most: 50. */
  readonly maxConnections?: number | undefined
  readonly connectTimeout?: Duration.DurationInput | undefined
  readonly drainTimeout?: Duration.DurationInput | undefined
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** On the external plane: how often a request that may be sent twice is sent again. Twice. */
  readonly retries?: number | undefined
  /** On the external plane: from when a request is logged as slow. */
  readonly slowAfter?: Duration.DurationInput | undefined
  /** On the external plane: the levels of the one log line of a request. */
  readonly logLevels?: ExternalClient.LogLevels | undefined
  readonly tls?: HttpTransport.Tls | undefined
}

/** The settings as they are read from a configuration. */
export const fields = {
  url: Fields.Url,
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode),
  timeout: Schema.optional(Fields.Duration),
  maxConnections: Schema.optional(Fields.Count),
  connectTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  retries: Schema.optional(Schema.NonNegativeInt),
  slowAfter: Schema.optional(Fields.Duration)
}

/** What is the product's own. */
export interface Product {
  readonly kind: string
  readonly name: string
  /** `Qdrant`: as it is called in operations and errors. */
  readonly product: string
  readonly headers: HttpConnection.RequestHeaders | undefined
  readonly errorOf: HttpConnection.Options["errorOf"]
  /** What its health asks, and whether the answer is that of such a server. */
  readonly asked: string
  readonly isAnswer: (answer: unknown) => boolean
  /** Settings that are whole numbers from 1 up, beside the connections. */
  readonly counts: Readonly<Record<string, number | undefined>>
}

export const make = Effect.fnUntraced(function* (
  settings: Settings,
  { asked, counts, errorOf, headers, isAnswer, kind, name, product }: Product
): Effect.fn.Return<HttpConnection.HttpConnection, ConnectionError, Scope.Scope> {
  const invalid = (method: string, description: string) =>
    new ConnectionError({ reason: "InvalidSettings", kind, connection: name, method, description })
  for (const [option, value] of Object.entries({ ...counts, maxConnections: settings.maxConnections })) {
    if (value !== undefined && !(Number.isInteger(value) && value >= 1)) {
      return yield* invalid("make", `${option} has to be a whole number from 1 up`)
    }
  }
  return yield* HttpConnection.make({
    ...settings,
    kind,
    name,
    plane: settings.plane ?? "external",
    baseUrl: settings.url,
    attributes: { "db.system.name": kind },
    headers: headers === undefined ? undefined : Effect.succeed(headers),
    errorOf,
    check: (http) =>
      Effect.flatMap(sender(http)(`${product}.health`, "GET", asked), (answer) =>
        isAnswer(answer) ? Effect.void : invalid("health", `what answers at this address is not ${product}`)
      )
  })
})

/** The layer of a connection, which is that of its store, too. */
export const layerOf =
  <I, C extends { readonly store: Store }>(tag: Context.Tag<I, C>) =>
  <E>(make: Effect.Effect<C, E, Scope.Scope>): Layer.Layer<VectorStore.VectorStore | I, E> =>
    Layer.scopedContext(
      Effect.map(make, (connection) =>
        Context.add(Context.make(VectorStore.VectorStore, connection.store), tag, connection)
      )
    )
