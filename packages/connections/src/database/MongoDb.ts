/**
 * MongoDB: collections typed by a `Schema`, transactions that are run again where that is right and nowhere else, change
 * streams and aggregations as `Stream`, on the driver `mongodb` (7.8), which is loaded when it is needed.
 *
 * @since 0.1.0
 */
import {
  type Connection,
  ConnectionError,
  type ConnectionStats,
  type ConnectMode,
  configOfSchema,
  Fields,
  type Kind,
  kindOf,
  type Plane
} from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as BigDecimal from "effect/BigDecimal"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ParseResult from "effect/ParseResult"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type * as Mongo from "mongodb"
import { load } from "../internal/driver.ts"
import { bson, bsonType, setBson } from "../internal/mongo/bson.ts"
import { supported, watch } from "../internal/mongo/changes.ts"
import * as Codec from "../internal/mongo/codec.ts"
import * as MongoCollection from "../internal/mongo/collection.ts"
import { type Client, type Core, limitOf, millisOf, operate, operationOf } from "../internal/mongo/core.ts"
import type {
  ChangeEvent,
  ChangeStreamHistoryLost,
  Collection,
  CollectionOptions,
  CommitOutcomeUnknown,
  DocumentInvalid,
  OperationOptions,
  TransactionOptions,
  WatchOptions
} from "../internal/mongo/model.ts"
import { attempt, makeBackground, makeCalls, release, within } from "../internal/mongo/operation.ts"
import { makePoolCounts } from "../internal/mongo/poolCounts.ts"
import { run as runTransaction } from "../internal/mongo/runTransaction.ts"
import * as Transaction from "../internal/mongo/transaction.ts"

// ---- settings ----------------------------------------------------------------------------------------------------------

export * from "../internal/mongo/model.ts"

/**
 * Where the servers are and how to treat them.
 *
 * @since 0.1.0
 * @category models
 */
export interface MongoDbSettings {
  /** `mongodb://user:password@host:27017/database?replicaSet=rs0`, or `mongodb+srv://…`. */
  readonly url: Redacted.Redacted
  /** The database; by default that of the URL, or `test`. */
  readonly database?: string | undefined
  readonly username?: string | undefined
  readonly password?: Redacted.Redacted | undefined
  /** TLS: by default as the URL says. */
  readonly tls?: boolean | undefined
  /** A file with the certificate of who signed the server's. */
  readonly tlsCaFile?: string | undefined
  /** How the connections are named in the server's log: `underlay`. */
  readonly applicationName?: string | undefined
  /** The most sockets to each server: 10. */
  readonly maxConnections?: number | undefined
  /** How long it may take to find a server and to connect to it: 5 s. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** How long an operation waits for a socket: 10 s. */
  readonly acquireTimeout?: Duration.DurationInput | undefined
  /** How long an operation may take, and of a stream each batch: 30 s. */
  readonly operationTimeout?: Duration.DurationInput | undefined
  /** How long COMMIT and what ends a transaction, which cannot be interrupted, may take: 10 s. */
  readonly endTimeout?: Duration.DurationInput | undefined
  /** How long an unused socket is kept: 10 minutes. */
  readonly idleTimeout?: Duration.DurationInput | undefined
  /** How long the release waits for operations that are under way: 5 s. */
  readonly drainTimeout?: Duration.DurationInput | undefined
  /** In what time the health is told: 1 s. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /**
   * Whether the driver sends a write once more that was lost on its way: with a number by which a replica set knows it
   * again, so that it is done once. Default: true. It has no effect on a standalone server.
   */
  readonly retryWrites?: boolean | undefined
  /** Whether the driver sends a read once more that was lost on its way. Default: true. */
  readonly retryReads?: boolean | undefined
  readonly plane?: Plane | undefined
  readonly connect?: ConnectMode | undefined
  readonly slowAfter?: Duration.DurationInput | undefined
  readonly logLevels?: ExternalClient.LogLevels | undefined
}

/**
 * The settings as they are written in a configuration.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  url: Fields.Secret,
  database: Schema.optional(Fields.Text),
  username: Schema.optional(Fields.Text),
  password: Schema.optional(Fields.Secret),
  tls: Schema.optional(Fields.Flag),
  tlsCaFile: Schema.optional(Fields.Text),
  applicationName: Schema.optional(Fields.Text),
  maxConnections: Schema.optional(Fields.Count),
  connectTimeout: Schema.optional(Fields.Duration),
  acquireTimeout: Schema.optional(Fields.Duration),
  operationTimeout: Schema.optional(Fields.Duration),
  endTimeout: Schema.optional(Fields.Duration),
  idleTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  retryWrites: Schema.optional(Fields.Flag),
  retryReads: Schema.optional(Fields.Flag),
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode),
  slowAfter: Schema.optional(Fields.Duration)
})

// ---- errors ------------------------------------------------------------------------------------------------------------

/**
 * What one can do with a database.
 *
 * @since 0.1.0
 * @category models
 */
export interface Database {
  /**
   * What the server can: transactions by the topology that it told when it was connected to; change streams by trying one,
   * once, for an engine other than MongoDB may call itself a replica set and have none. The databases `admin`, `config`
   * and `local` have none anywhere.
   */
  readonly capabilities: Effect.Effect<
    { readonly transactions: boolean; readonly changeStreams: boolean },
    ConnectionError
  >
  readonly collection: {
    <A, I extends object>(name: string, schema: Schema.Schema<A, I>, options?: CollectionOptions): Collection<A, I>
    (name: string): Collection<Mongo.Document, Mongo.Document>
  }
  /**
   * Runs all operations of the effect, and of the fibers that it forks, as one transaction: one at a time, in the order
   * of asking. It is committed when the effect succeeds and rolled back when it fails or is interrupted.
   *
   * After a `TransientTransactionError` the whole effect is run again: what it does besides must bear that. When the
   * answer to COMMIT is lost only COMMIT is sent again; if no answer comes the error is `CommitOutcomeUnknown`, and the
   * effect is not run again. Within a transaction it joins that one, which cannot be committed any more if the inner one
   * fails. `Unsupported` where the server is no member of a replica set or a sharded cluster.
   */
  readonly transaction: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options?: TransactionOptions
  ) => Effect.Effect<A, E | ConnectionError | CommitOutcomeUnknown, R>
  /** Runs an effect outside of the transaction of its fiber. */
  readonly withoutTransaction: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** The changes of all collections, with their documents as they are. */
  readonly watchAll: (
    options?: WatchOptions
  ) => Stream.Stream<ChangeEvent<Mongo.Document>, ConnectionError | ChangeStreamHistoryLost | DocumentInvalid>
  /** Runs a command and gives the server's answer. It counts as a write: it is not sent twice. */
  readonly command: (
    command: Mongo.Document,
    options?: OperationOptions
  ) => Effect.Effect<Mongo.Document, ConnectionError>
  /**
   * Anything else that the driver can do, as one operation of the given name: pass the options on, so that it is aborted
   * when it is interrupted and belongs to the transaction.
   */
  readonly attempt: <A>(
    operation: string,
    f: (db: Mongo.Db, options: { readonly signal: AbortSignal; readonly session?: Mongo.ClientSession }) => Promise<A>,
    options?: OperationOptions
  ) => Effect.Effect<A, ConnectionError>
}

/**
 * A connection to MongoDB and its database.
 *
 * @since 0.1.0
 * @category models
 */
export interface MongoDbConnection extends Connection<Database>, Database {}

/**
 * @since 0.1.0
 * @category tags
 */
export class MongoDb extends Context.Tag("@underlay/connections/MongoDb")<MongoDb, MongoDbConnection>() {}

const kindName = "mongodb"

interface Target {
  readonly database: string | undefined
  readonly host: string | undefined
  readonly port: number | undefined
}

const decoded = (part: string): string | undefined => {
  try {
    return decodeURIComponent(part)
  } catch {
    return undefined
  }
}

/** What the URL says that may be shown. The driver is strict about the rest. */
const targetOf = (name: string, url: Redacted.Redacted): Effect.Effect<Target, ConnectionError> => {
  // No @ among the hosts: it would be one of the password's.
  const parts = /^mongodb(\+srv)?:\/\/(?:[^@/]*@)?([^/?@]+)(?:\/([^?]*))?(?:\?.*)?$/.exec(Redacted.value(url))
  const [, srv, hosts = "", encoded = ""] = parts ?? []
  const database = decoded(encoded)
  if (parts === null || database === undefined) {
    return new ConnectionError({
      reason: "InvalidSettings",
      kind: kindName,
      connection: name,
      method: "make",
      description:
        "the url has to be like mongodb://user:password@host:27017/database, with what is special in the parts percent-encoded",
      sent: false
    })
  }
  const first = /^(\[[^\]]*\]|[^:,]+)(?::(\d+))?$/.exec(hosts.split(",")[0] ?? "")
  return Effect.succeed({
    database: database === "" ? undefined : database,
    host: hosts.includes(",") ? undefined : first?.[1],
    port: hosts.includes(",") || srv !== undefined ? undefined : Number(first?.[2] ?? 27_017)
  })
}

/**
 * A client that says farewell to a server that does not answer (the driver has no limit for that) keeps its sockets and
 * its timers: they are ended with its topology, where this version of the driver keeps it.
 */
const destroy = (mongo: Mongo.MongoClient): void => {
  const topology: unknown = Reflect.get(mongo, "topology")
  if (typeof topology !== "object" || topology === null) return
  const close: unknown = Reflect.get(topology, "close")
  if (typeof close === "function") Reflect.apply(close, topology, [])
}

/**
 * Connects. When the scope closes, operations that are under way may end, then cursors, sessions and sockets are closed.
 *
 * Fails with `InvalidSettings`, `MissingDriver` and, if `connect` is `eager`, with what hinders the first connection:
 * `Unavailable`, `Timeout`, `Authentication`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: MongoDbSettings,
  name: string = kindName
): Effect.fn.Return<MongoDbConnection, ConnectionError, Scope.Scope> {
  const plane = settings.plane ?? "external"
  const millis = (input: Duration.DurationInput | undefined, instead: number): number =>
    input === undefined ? instead : millisOf(input)
  const target = yield* targetOf(name, settings.url)
  const database = settings.database ?? target.database ?? "test"
  const connectTimeout = millis(settings.connectTimeout, 5_000)
  const drainTimeout = millis(settings.drainTimeout, 5_000)
  const endTimeout = millis(settings.endTimeout, 10_000)
  const at = (method: string) => ({ kind: kindName, name, method })
  const driver = yield* load({ kind: kindName, name }, "mongodb", "7", () => import("mongodb"))
  setBson(driver)
  const { password, username } = settings
  const options: Mongo.MongoClientOptions = {
    appName: settings.applicationName ?? "underlay",
    maxPoolSize: settings.maxConnections ?? 10,
    maxIdleTimeMS: millis(settings.idleTimeout, 600_000),
    connectTimeoutMS: connectTimeout,
    // A little less, so that the driver can say what it found.
    serverSelectionTimeoutMS: Math.ceil(connectTimeout * 0.8),
    waitQueueTimeoutMS: millis(settings.acquireTimeout, 10_000),
    retryWrites: settings.retryWrites ?? true,
    retryReads: settings.retryReads ?? true,
    // Else the driver sends COMMIT once more by itself, and nobody could tell a lost answer from a refusal.
    maxAdaptiveRetries: 0,
    ignoreUndefined: true,
    ...(settings.tls === undefined ? {} : { tls: settings.tls }),
    ...(settings.tlsCaFile === undefined ? {} : { tlsCAFile: settings.tlsCaFile }),
    ...(username === undefined
      ? {}
      : { auth: { username, ...(password === undefined ? {} : { password: Redacted.value(password) }) } })
  }
  const counts = makePoolCounts()
  const watches = makeCalls(counts)
  const background = makeBackground()
  const transaction = Transaction.makeRef()

  const open: Effect.Effect<Client, ConnectionError, Scope.Scope> = Effect.gen(function* () {
    const calls = makeCalls(counts)
    const mongo = yield* Effect.acquireRelease(
      Effect.try({
        try: () => new driver.MongoClient(Redacted.value(settings.url), options),
        catch: (thrown) =>
          new ConnectionError({
            reason: "InvalidSettings",
            kind: kindName,
            connection: name,
            method: "make",
            description:
              "the driver does not take the url or the settings: check them by its manual, `original` says which it refuses",
            sent: false,
            cause: thrown
          })
      }),
      (mongo) =>
        // Who waits for an answer is told, then cursors and sessions are ended; then the rest is given up.
        Effect.gen(function* () {
          release(calls)
          yield* within(Math.min(1_000, drainTimeout), background.settled())
          const closed = mongo.close(true)
          if ((yield* within(drainTimeout, closed)) === "late") yield* Effect.sync(() => destroy(mongo))
        })
    )
    counts.follow(mongo)
    const db = mongo.db(database)
    const answer = yield* attempt(at("connect"), connectTimeout, false, async (signal) => {
      await mongo.connect()
      // It was closed while it looked for the hosts, or read a certificate: what it connected after that has to be, too.
      if (signal.aborted) await mongo.close(true)
      return db.admin().command({ hello: 1 }, { signal })
    })
    const isSet = typeof answer["setName"] === "string" || answer["msg"] === "isdbgrid"
    return {
      mongo,
      db,
      calls,
      capabilities: { transactions: isSet, changeStreams: isSet },
      answers: { changeStreams: undefined }
    }
  })

  const lifecycle = yield* ConnectionLifecycle.make<Client>({
    kind: kindName,
    name,
    plane,
    connect: settings.connect,
    connectTimeout,
    drainTimeout,
    callsEndWithClient: true,
    healthTimeout: settings.healthTimeout,
    open,
    check: (client) =>
      Effect.asVoid(attempt(at("ping"), connectTimeout, false, (signal) => client.db.command({ ping: 1 }, { signal }))),
    stats: (): Effect.Effect<ConnectionStats> => Effect.sync(counts.read),
    watch: { slowAfter: settings.slowAfter, logLevels: settings.logLevels }
  })

  // Before the drain begins.
  yield* Effect.addFinalizer(() => Effect.sync(() => release(watches)))

  const core: Core = {
    kind: kindName,
    name,
    external: plane === "external",
    lifecycle,
    transaction,
    background,
    retryWrites: options.retryWrites ?? true,
    counts,
    watches,
    timeout: millis(settings.operationTimeout, 30_000),
    endTimeout,
    database,
    attributes: {
      "db.system.name": "mongodb",
      "db.namespace": database,
      ...(target.host === undefined ? {} : { "server.address": target.host }),
      ...(target.port === undefined ? {} : { "server.port": target.port })
    }
  }

  function collection<A, I extends object>(
    name: string,
    schema: Schema.Schema<A, I>,
    options?: CollectionOptions
  ): Collection<A, I>
  function collection(name: string): Collection<Mongo.Document, Mongo.Document>
  function collection<A, I extends object>(
    name: string,
    schema?: Schema.Schema<A, I>,
    options: CollectionOptions = {}
  ): Collection<A, I> | Collection<Mongo.Document, Mongo.Document> {
    return schema === undefined
      ? MongoCollection.make<Mongo.Document, Mongo.Document>(core, name, Codec.plain, options)
      : MongoCollection.make<A, I>(core, name, Codec.make(name, schema), options)
  }

  const watchAllOperation = operationOf(core, "watch", false)
  const commandOperation = operationOf(core, "runCommand", true)
  const capabilitiesOperation = operationOf(core, "capabilities", false)
  const api: Database = {
    capabilities: Effect.flatMap(lifecycle.client, (client) =>
      Effect.map(supported(core, capabilitiesOperation, client), (changeStreams) => ({
        ...client.capabilities,
        changeStreams
      }))
    ),
    collection,
    transaction: (effect, options) => runTransaction(core, effect, options),
    withoutTransaction: (effect) => Effect.locally(effect, transaction, undefined),
    watchAll: (options) =>
      watch(core, watchAllOperation, (client) => client.db, Codec.plain.decode, undefined, options),
    command: (command, options) =>
      operate(core, commandOperation, limitOf(core, options?.timeout), (client, driver) =>
        client.db.command(command, driver)
      ),
    attempt: (operation, f, options) =>
      operate(core, operationOf(core, operation, true), limitOf(core, options?.timeout), (client, driver) =>
        f(client.db, { ...driver, signal: driver.signal.toNative() })
      )
  }
  return {
    ...lifecycle.connection,
    ...api,
    use: (f) => lifecycle.connection.use(() => f(api))
  }
})

// ---- layers ------------------------------------------------------------------------------------------------------------

/**
 * The connection, from settings.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: MongoDbSettings): Layer.Layer<MongoDb, ConnectionError> =>
  Layer.scoped(MongoDb, make(settings))

/**
 * The settings as configuration. The registry reads it below `connections.<name>`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const config: Config.Config<MongoDbSettings> = configOfSchema(Settings)

/**
 * The settings in `MONGODB_URL`, which has to be set.
 *
 * @since 0.1.0
 * @category schemas
 */
export const mongoDbUrl: Config.Config<MongoDbSettings> = Config.map(Config.redacted("MONGODB_URL"), (url) => ({ url }))

/**
 * The connection, from configuration: `MONGODB_URL` if nothing else is given.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  settings: Config.Config.Wrap<MongoDbSettings> = mongoDbUrl
): Layer.Layer<MongoDb, ConnectionError | ConfigError.ConfigError> =>
  Layer.scoped(
    MongoDb,
    Effect.flatMap(Config.unwrap(settings), (settings) => make(settings))
  )

/**
 * MongoDB for the registry of connections: `Connections.layer([MongoDb.kind])`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<Database, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})

// ---- schemas of fields -------------------------------------------------------------------------------------------------

const isObjectId = (value: unknown): value is Mongo.ObjectId => bsonType(value) === "ObjectId"

/**
 * An ObjectId of the driver, as it is.
 *
 * @since 0.1.0
 * @category schemas
 */
export const ObjectId: Schema.Schema<Mongo.ObjectId> = Schema.declare(isObjectId, {
  identifier: "ObjectId",
  description: "an ObjectId"
})

/** A field that is made by one of the driver's classes, which are there once a connection was made. */
const stored = <A, I, Stored>(
  to: Schema.Schema<A, I>,
  from: Schema.Schema<Stored>,
  decode: (value: Stored) => I | undefined,
  encode: (value: I) => Stored | undefined
): Schema.Schema<A, Stored> =>
  Schema.transformOrFail(from, to, {
    strict: true,
    decode: (value, _, ast) => {
      const decoded = decode(value)
      return decoded === undefined ? ParseResult.fail(new ParseResult.Type(ast, value)) : ParseResult.succeed(decoded)
    },
    encode: (value, _, ast) => {
      const encoded = encode(value)
      return encoded === undefined ? ParseResult.fail(new ParseResult.Type(ast, value)) : ParseResult.succeed(encoded)
    }
  })

/**
 * An ObjectId as a text of 24 hexadecimal digits, stored as an ObjectId.
 *
 * @since 0.1.0
 * @category schemas
 */
export const ObjectIdHex: Schema.Schema<string, Mongo.ObjectId> = stored(
  Schema.String.pipe(Schema.pattern(/^[0-9a-f]{24}$/)),
  ObjectId,
  (id) => id.toHexString(),
  (hex) => {
    const classes = bson()
    return classes === undefined ? undefined : new classes.ObjectId(hex)
  }
)

const isStoredLong = (value: unknown): value is Mongo.Long | number | bigint =>
  typeof value === "bigint" || (typeof value === "number" && Number.isInteger(value)) || bsonType(value) === "Long"

/**
 * A `bigint`, stored as a whole number of 64 bits; smaller whole numbers are read too.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Long: Schema.Schema<bigint, Mongo.Long | number | bigint> = stored(
  Schema.BigIntFromSelf.pipe(Schema.betweenBigInt(-(2n ** 63n), 2n ** 63n - 1n)),
  Schema.declare(isStoredLong, { identifier: "Long", description: "a whole number of 64 bits" }),
  (value) => (typeof value === "object" ? value.toBigInt() : BigInt(value)),
  (value) => bson()?.Long.fromBigInt(value)
)

const isStoredBytes = (value: unknown): value is Mongo.Binary | Uint8Array =>
  value instanceof Uint8Array || bsonType(value) === "Binary"

/**
 * Bytes, stored as a Binary.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Bytes: Schema.Schema<Uint8Array, Mongo.Binary | Uint8Array> = stored(
  Schema.Uint8ArrayFromSelf,
  Schema.declare(isStoredBytes, { identifier: "Binary", description: "bytes" }),
  (value) => (value instanceof Uint8Array ? value : value.buffer.subarray(0, value.position)),
  (value) => {
    const classes = bson()
    return classes === undefined ? undefined : new classes.Binary(value)
  }
)

const isDecimal128 = (value: unknown): value is Mongo.Decimal128 => bsonType(value) === "Decimal128"

/**
 * A `BigDecimal`, stored as a Decimal128 (34 digits).
 *
 * @since 0.1.0
 * @category schemas
 */
export const Decimal: Schema.Schema<BigDecimal.BigDecimal, Mongo.Decimal128> = stored(
  Schema.BigDecimalFromSelf,
  Schema.declare(isDecimal128, { identifier: "Decimal128", description: "a Decimal128" }),
  (value) => {
    const parsed = BigDecimal.fromString(value.toString())
    return parsed._tag === "Some" ? parsed.value : undefined
  },
  (value) => {
    const classes = bson()
    return classes === undefined ? undefined : decimalOf(classes.Decimal128, BigDecimal.format(value))
  }
)

/** More digits than it holds are refused by the driver. */
const decimalOf = (type: typeof Mongo.Decimal128, text: string): Mongo.Decimal128 | undefined => {
  try {
    return type.fromString(text)
  } catch {
    return undefined
  }
}
