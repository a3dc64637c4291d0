/**
 * DynamoDB over its own wire, without an SDK: items typed by `Schema`, conditions and updates as data, queries as streams,
 * batches that end, transactions that are safe to send again.
 *
 * @since 0.1.0
 */
import * as HttpClient from "@effect/platform/HttpClient"
import {
  type CheckResult,
  type Connection,
  ConnectionError,
  type ConnectMode,
  configOfSchema,
  Fields,
  type Kind,
  kindOf,
  type Plane
} from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import * as Credentials from "../internal/aws/credentials.ts"
import type * as Attribute from "../internal/dynamo/attribute.ts"
import * as Client from "../internal/dynamo/client.ts"
import type * as Expression from "../internal/dynamo/expression.ts"
import * as DynamoFields from "../internal/dynamo/fields.ts"
import * as Table from "../internal/dynamo/table.ts"
import type * as Model from "../internal/dynamo/tableModel.ts"
import * as Transport from "../internal/http/transport.ts"

export { Exact } from "../internal/dynamo/attribute.ts"
export type { PathOf, ValueAt } from "../internal/dynamo/paths.ts"
export type {
  Actions,
  BatchResult,
  DeleteOptions,
  Index,
  KeyOf,
  On,
  OnKey,
  Page,
  PutOptions,
  QueryOptions,
  ReadOptions,
  ScanOptions,
  Table,
  TableDefinition,
  TableDescription,
  TransactGet,
  TransactWrite,
  UpdateOptions,
  WriteBatch
} from "../internal/dynamo/tableModel.ts"

/**
 * A condition: made by the functions that a table lends (`on.eq("status", "open")`).
 *
 * @since 0.1.0
 * @category models
 */
export type Condition = Expression.Condition

/**
 * One action of an update: made by the functions that a table lends (`to.add("count", 1)`).
 *
 * @since 0.1.0
 * @category models
 */
export type Action = Expression.Action

/**
 * A whole number of any size up to 38 digits, as a bigint.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Integer: Schema.Schema<bigint, number | bigint> = DynamoFields.Integer

/**
 * A number with all of its digits (up to 38), as a text: for sums of money and what else a JavaScript number would change.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Decimal: Schema.Schema<string, number | bigint | Attribute.Exact> = DynamoFields.Decimal

/**
 * A date as whole seconds since 1970, as the time to live of an item is written.
 *
 * @since 0.1.0
 * @category schemas
 */
export const EpochSeconds: Schema.Schema<Date, number> = DynamoFields.EpochSeconds

/**
 * Why one operation of a cancelled transaction would not do: `None` for those that would; `ConditionalCheckFailed`,
 * `TransactionConflict`, `ValidationError`, `ThrottlingError`, … `item` is what stood there, where it was asked for.
 *
 * @since 0.1.0
 * @category models
 */
export interface CancellationReason {
  readonly code: string
  readonly item: Option.Option<Readonly<Record<string, unknown>>>
}

/**
 * The reasons of a cancelled transaction, in the order of its operations; none for any other error.
 *
 * @since 0.1.0
 * @category errors
 */
export const cancellationReasons = (error: ConnectionError): ReadonlyArray<CancellationReason> =>
  (Client.detailsOf(error).reasons ?? []).map(({ code, item }) => ({ code, item: Table.plainItem(item) }))

/**
 * The item on which a condition failed, as it is stored, where `returnOld` asked for it. (`table.oldItem` gives it by the
 * table's schema.) It is not part of the error, so that no log shows it.
 *
 * @since 0.1.0
 * @category errors
 */
export const oldItem = (error: ConnectionError): Option.Option<Readonly<Record<string, unknown>>> =>
  Table.plainItem(Client.detailsOf(error).item)

/**
 * What may be said of one request.
 *
 * @since 0.1.0
 * @category models
 */
export interface RequestOptions {
  /** Whether it may be sent twice. */
  readonly idempotent?: boolean | undefined
}

/**
 * The client. Every operation fails with `ConnectionError`: `Conflict` where a condition does not hold or a transaction is
 * in the way, `Throttled`, `NotFound` (a table), `InvalidRequest`, `Authentication`, `PermissionDenied`, `Unavailable`,
 * `Timeout`, `Unknown` where what is stored does not fit the schema. `sent` is false where the service has not begun.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** Any operation by its name, in the service's own JSON: `request("ListTables", { Limit: 10 })`. */
  readonly request: (
    operation: string,
    input: Readonly<Record<string, unknown>>,
    options?: RequestOptions
  ) => Effect.Effect<Readonly<Record<string, unknown>>, ConnectionError>
  /**
   * A table whose items are of a schema. Nothing is sent.
   *
   * ```ts
   * const Order = Schema.Struct({ customer: Schema.String, number: Schema.Number, total: DynamoDb.Decimal })
   * const orders = dynamo.table({ name: "orders", schema: Order, partitionKey: "customer", sortKey: "number" })
   * ```
   */
  readonly table: Model.MakeTable
  /**
   * Does all or nothing. It goes with a token (a new one, unless one is given) by which the service knows it again for ten
   * minutes, so that it can be sent again: at most 100 operations, each of another item. A cancelled one is `Conflict`
   * (or `InvalidRequest`, `Throttled`) with `cancellationReasons`.
   */
  readonly transactWrite: (
    operations: ReadonlyArray<Model.TransactWrite>,
    options?: { readonly token?: string | undefined }
  ) => Effect.Effect<void, ConnectionError>
  /** Reads several items as they were at one moment, in their order: at most 100. */
  readonly transactGet: <const Gets extends ReadonlyArray<Model.TransactGet<unknown>>>(
    gets: Gets
  ) => Effect.Effect<
    { readonly [K in keyof Gets]: Gets[K] extends Model.TransactGet<infer A> ? Option.Option<A> : never },
    ConnectionError
  >
  /** Rows of a PartiQL statement, page by page, as they are stored. `?` stands for the parameters in their order. */
  readonly partiql: (
    statement: string,
    parameters?: ReadonlyArray<unknown>,
    options?: { readonly consistent?: boolean | undefined }
  ) => Stream.Stream<Readonly<Record<string, unknown>>, ConnectionError>
}

/**
 * Where the service is and how to treat it.
 *
 * @since 0.1.0
 * @category models
 */
export interface DynamoDbSettings {
  /** `eu-central-1`. Default: `AWS_REGION`, or that of the profile. */
  readonly region?: string | undefined
  /** Another address than the region's, such as that of DynamoDB Local. */
  readonly endpoint?: string | URL | undefined
  /** Without them: the environment, the shared files, a web identity, the container's or the machine's own. */
  readonly accessKeyId?: string | undefined
  readonly secretAccessKey?: Redacted.Redacted<string> | undefined
  readonly sessionToken?: Redacted.Redacted<string> | undefined
  readonly profile?: string | undefined
  /** Credentials of one's own making, asked for again when they expire. */
  readonly credentials?: Credentials.CredentialsSettings["credentials"]
  /** `external` (default): watched, and what may be sent again is. `internal`: nothing is emitted or sent again. */
  readonly plane?: Plane | undefined
  /** `eager` (default): it fails where the service does not answer. */
  readonly connect?: ConnectMode | undefined
  /** The limit of one request, with all its attempts: 10 seconds. */
  readonly timeout?: Duration.DurationInput | undefined
  /** On the external plane: how often what may be sent again is: 3 times. */
  readonly retries?: number | undefined
  /** Sockets at the most: 50. */
  readonly maxConnections?: number | undefined
  readonly connectTimeout?: Duration.DurationInput | undefined
  readonly drainTimeout?: Duration.DurationInput | undefined
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** On the external plane: from when a call is logged as slow. */
  readonly slowAfter?: Duration.DurationInput | undefined
  readonly logLevels?: ExternalClient.LogLevels | undefined
}

/**
 * The settings as they are read from configuration.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  region: Schema.optional(Fields.Text),
  endpoint: Schema.optional(Fields.Url),
  accessKeyId: Schema.optional(Fields.Text),
  secretAccessKey: Schema.optional(Fields.Secret),
  sessionToken: Schema.optional(Fields.Secret),
  profile: Schema.optional(Fields.Text),
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode),
  timeout: Schema.optional(Fields.Duration),
  retries: Schema.optional(Schema.NonNegativeInt),
  maxConnections: Schema.optional(Fields.Count),
  connectTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  slowAfter: Schema.optional(Fields.Duration)
})

/**
 * The client, as a service.
 *
 * @since 0.1.0
 * @category tags
 */
export class DynamoDb extends Context.Tag("@underlay/connections/DynamoDb")<
  DynamoDb,
  Service & { readonly connection: Connection<Service> }
>() {}

/** What answers that the service is there, but not for this: it serves. */
const answered: ReadonlySet<ConnectionError["reason"]> = new Set(["PermissionDenied", "Throttled"])

/** Operations that change nothing. */
const reads = /^(Get|BatchGet|Query|Scan|Describe|List|TransactGet)/

/**
 * Makes a connection. It fails with `InvalidSettings` on what cannot be, with `MissingDriver` where `undici` is not
 * installed, and when it is eager with why the service did not answer.
 *
 * What is sent again, on the external plane only: what reads; a `put` or `delete` without a condition; an update that only
 * sets and removes; batches; transactions (they have a token); and whatever the service refused before it began
 * (throttling). An update that counts or appends, one that changes elements of lists, and whatever has a condition or
 * gives back the old item is sent once, unless the call says `idempotent`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: DynamoDbSettings = {},
  name = "dynamodb"
): Effect.fn.Return<typeof DynamoDb.Service, ConnectionError, Scope.Scope> {
  const at = { kind: "dynamodb", name }
  const region = yield* Credentials.region(at, settings)
  const credentials = yield* Credentials.provider(at, settings)
  const written =
    settings.endpoint ?? `https://dynamodb.${region}.amazonaws.com${region.startsWith("cn-") ? ".cn" : ""}`
  const endpoint = URL.canParse(written) ? new URL(written) : undefined
  if (
    endpoint === undefined ||
    !/^https?:$/.test(endpoint.protocol) ||
    endpoint.username !== "" ||
    endpoint.password !== ""
  ) {
    return yield* new ConnectionError({
      reason: "InvalidSettings",
      ...{ kind: at.kind, connection: name, method: "make" },
      description: "the endpoint is like https://dynamodb.eu-central-1.amazonaws.com, without a user or password",
      sent: false
    })
  }
  const timeout = settings.timeout ?? "10 seconds"
  const http = yield* Transport.make(at, {
    connections: settings.maxConnections ?? 50,
    connectTimeout: settings.connectTimeout ?? "5 seconds"
  })
  let active = 0
  const max = settings.maxConnections ?? 50
  const wire = Client.make({
    name,
    endpoint,
    region,
    credentials,
    // its own span would be a second one for the same call
    http: HttpClient.withTracerDisabledWhen(http, () => true)
  })
  const count = Effect.sync(() => {
    active++
  })
  const uncount = () =>
    Effect.sync(() => {
      active--
    })
  const send: Client.Send = (operation, input, headers) =>
    Effect.acquireUseRelease(count, () => wire(operation, input, headers), uncount)

  const lifecycle = yield* ConnectionLifecycle.make<Client.Send>({
    kind: at.kind,
    name,
    plane: settings.plane ?? "external",
    connect: settings.connect,
    open: Effect.succeed(send),
    connectTimeout: settings.connectTimeout,
    drainTimeout: settings.drainTimeout,
    healthTimeout: settings.healthTimeout,
    check: (send) =>
      Effect.matchEffect(Effect.retry(send("ListTables", { Limit: 1 }), { times: 1, while: Client.isCorrected }), {
        onSuccess: (): Effect.Effect<CheckResult> => Effect.succeed({ status: "up", details: { region } }),
        onFailure: (error): Effect.Effect<CheckResult, ConnectionError> =>
          answered.has(error.reason) ? Effect.succeed({ status: "up", details: { region, list: error.reason } }) : error
      }),
    stats: () =>
      Effect.sync(() => {
        const inUse = Math.min(active, max)
        return { total: inUse, idle: 0, inUse, waiting: active - inUse }
      }),
    watch: {
      policy: {
        classify: ConnectionLifecycle.classify,
        timeout,
        retry: settings.retries === 0 ? false : { attempts: (settings.retries ?? 3) + 1, base: "100 millis" }
      },
      slowAfter: settings.slowAfter,
      logLevels: settings.logLevels,
      spanName: (operation) => `DynamoDB.${operation}`,
      attributes: {
        "db.system.name": "aws.dynamodb",
        "rpc.system": "aws-api",
        "rpc.service": "DynamoDB",
        "cloud.region": region,
        "server.address": endpoint.hostname
      }
    }
  })

  const attempt =
    settings.plane === "internal"
      ? send
      : (operation: string, input: Client.Output) =>
          Effect.flatMap(traceparent, (headers) => send(operation, input, headers))
  const call: Model.Call = (operation, input, idempotent) => {
    const table = input["TableName"]
    const options = {
      idempotent,
      timeout,
      ...(typeof table === "string" ? { attributes: { "aws.dynamodb.table_names": [table] } } : {})
    }
    if (reads.test(operation)) {
      return lifecycle.call(operation, () => attempt(operation, input), options)
    }
    return Effect.suspend(() => {
      // of all attempts: the last one may have been refused, and one before it done
      let doubtful = false
      return Effect.mapError(
        lifecycle.call(
          operation,
          () =>
            Effect.mapError(attempt(operation, input), (error) => {
              if (isDoubtful(error)) doubtful = true
              return error
            }),
          options
        ),
        (error) => inDoubt(error, doubtful)
      )
    })
  }

  const service = Table.makeService(call, name)
  const limit = Duration.decode(timeout)
  const silent: Client.Send = (operation, input) =>
    Effect.timeoutFail(Effect.disconnect(send(operation, input)), {
      duration: limit,
      onTimeout: () =>
        new ConnectionError({
          reason: "Timeout",
          ...{ kind: at.kind, connection: name, method: operation },
          description: `the service did not answer within ${Duration.format(limit)}`
        })
    })
  const lent: Connection<Service> = { ...lifecycle.connection, use: (f) => lifecycle.connection.use(() => f(service)) }
  silently.set(service, silent)
  const whole = { ...service, connection: lent }
  silently.set(whole, silent)
  return whole
})

/** Sends without being watched, for the adapters of this package whose plane is the internal one. */
const silently = new WeakMap<object, Client.Send>()

/**
 * The plain way to the service that a client has.
 *
 * @internal
 */
export const silentOf = (service: Service): Effect.Effect<Client.Send> =>
  Effect.suspend(() => {
    const send = silently.get(service)
    return send === undefined ? Effect.dieMessage("this client was not made by DynamoDb.make") : Effect.succeed(send)
  })

const isDoubtful = (error: ConnectionError): boolean =>
  (error.reason === "Timeout" || error.reason === "Unavailable") && error.sent !== false

const [traceId, spanId] = [/^(?!0{32})[0-9a-f]{32}$/, /^(?!0{16})[0-9a-f]{16}$/]

/** Names the span of the call, where the format can. The header is not signed. */
const traceparent: Effect.Effect<Readonly<Record<string, string>>> = Effect.match(Effect.currentParentSpan, {
  onFailure: () => ({}),
  onSuccess: (span): Readonly<Record<string, string>> =>
    traceId.test(span.traceId) && spanId.test(span.spanId)
      ? { traceparent: `00-${span.traceId}-${span.spanId}-${span.sampled ? "01" : "00"}` }
      : {}
})

/** Of what changes something and has no answer, nobody knows whether it was done. */
const inDoubt = (error: ConnectionError, before: boolean): ConnectionError => {
  // a transaction that was cancelled has its answer
  const refused = error.sent === false && Client.detailsOf(error).reasons === undefined
  if (!isDoubtful(error) && !(before && refused)) return error
  if (error.sent !== false && error.description.includes("may have been done")) return error
  return new ConnectionError({
    reason: error.reason,
    kind: error.kind,
    connection: error.connection,
    method: error.method,
    description: `${error.description}; what was asked may have been done`,
    ...(error.code === undefined ? {} : { code: error.code }),
    ...(error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter }),
    sent: true,
    cause: error.cause ?? error
  })
}

/**
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: DynamoDbSettings = {}): Layer.Layer<DynamoDb, ConnectionError> =>
  Layer.scoped(DynamoDb, make(settings))

/**
 * The layer with settings from configuration, below `dynamodb` unless another path is given.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (path = "dynamodb"): Layer.Layer<DynamoDb, ConnectionError | ConfigError> =>
  Layer.scoped(
    DynamoDb,
    Effect.flatMap(Config.nested(configOfSchema(Settings), path), (settings) => make(settings))
  )

/**
 * The kind `dynamodb`, for core's `Connections`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<Service, typeof Settings.Type> = kindOf({
  kind: "dynamodb",
  schema: Settings,
  make: (name, settings) => Effect.map(make(settings, name), (made) => made.connection)
})
