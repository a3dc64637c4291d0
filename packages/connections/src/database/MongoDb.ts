/**
 * MongoDB: collections typed by a `Schema`, transactions that are run again where that is right and nowhere else, change
 * streams and aggregations as `Stream`, on the driver `mongodb` (7.8), which is loaded when it is needed.
 *
 * @since 0.1.0
 */
import {
  type Connection,
  ConnectionError,
  ConnectionErrorReason,
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
import type * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type * as Mongo from "mongodb"
import { load } from "../internal/driver.ts"
import { bson, bsonType, setBson } from "../internal/mongo/bson.ts"
import { watch } from "../internal/mongo/changes.ts"
import * as Codec from "../internal/mongo/codec.ts"
import * as MongoCollection from "../internal/mongo/collection.ts"
import { type Client, type Core, limitOf, millisOf, operate, operationOf } from "../internal/mongo/core.ts"
import { attempt, makeBackground, within } from "../internal/mongo/operation.ts"
import { makePoolCounts } from "../internal/mongo/poolCounts.ts"
import { run as runTransaction } from "../internal/mongo/runTransaction.ts"
import * as Transaction from "../internal/mongo/transaction.ts"

// ---- settings ----------------------------------------------------------------------------------------------------------

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
 * A document is not as its schema says: one that was read, or one that was to be written. It tells the path and what the
 * schema wants there, never the value.
 *
 * @since 0.1.0
 * @category errors
 */
export class DocumentInvalid extends Schema.TaggedError<DocumentInvalid>("@underlay/connections/DocumentInvalid")(
  "DocumentInvalid",
  {
    collection: Schema.String,
    direction: Schema.Literal("decode", "encode"),
    path: Schema.String,
    expected: Schema.String
  }
) {
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    const what = this.direction === "decode" ? "a stored document" : "the document"
    return `MongoDB collection "${this.collection}": ${what} is wrong at "${this.path}": expected ${this.expected}`
  }
}

/**
 * Of a write of many documents some were refused, or it was cut short. `failures` has those that were refused, by their
 * index in what was given; the counts say what was done. An ordered write stops at the first failure.
 *
 * @since 0.1.0
 * @category errors
 */
export class BulkWriteError extends Schema.TaggedError<BulkWriteError>("@underlay/connections/BulkWriteError")(
  "BulkWriteError",
  {
    reason: ConnectionErrorReason,
    connection: Schema.String,
    collection: Schema.String,
    method: Schema.String,
    inserted: Schema.Number,
    matched: Schema.Number,
    modified: Schema.Number,
    deleted: Schema.Number,
    upserted: Schema.Number,
    failures: Schema.Array(
      Schema.Struct({
        index: Schema.Number,
        code: Schema.Number,
        reason: ConnectionErrorReason,
        description: Schema.String
      })
    ),
    description: Schema.String,
    cause: Schema.optionalWith(Schema.Defect, { exact: true })
  }
) {
  /** What was done already would be done twice. */
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    const first = this.failures[0]
    const where = first === undefined ? "" : ` (first at index ${first.index})`
    return `mongodb "${this.connection}" ${this.method} "${this.collection}": ${this.failures.length} refused${where}: ${this.description}`
  }
}

/**
 * The server no longer has the changes behind the resume token: some may be lost. Read the collection anew, and watch it
 * from now on.
 *
 * @since 0.1.0
 * @category errors
 */
export class ChangeStreamHistoryLost extends Schema.TaggedError<ChangeStreamHistoryLost>(
  "@underlay/connections/ChangeStreamHistoryLost"
)("ChangeStreamHistoryLost", {
  connection: Schema.String,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    return `mongodb "${this.connection}": the server no longer has the changes behind the resume token: read the collection anew`
  }
}

/**
 * The answer to COMMIT was lost, and asking again did not bring one: the transaction may be committed or not. Its body is
 * not run again; look at the data before you do that.
 *
 * @since 0.1.0
 * @category errors
 */
export class CommitOutcomeUnknown extends Schema.TaggedError<CommitOutcomeUnknown>(
  "@underlay/connections/CommitOutcomeUnknown"
)("CommitOutcomeUnknown", {
  connection: Schema.String,
  attempts: Schema.Number,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    return `mongodb "${this.connection}": COMMIT was sent ${this.attempts} times and its outcome is not known`
  }
}

// ---- documents ---------------------------------------------------------------------------------------------------------

/**
 * A document that is to be stored: its `_id` may be left to the driver.
 *
 * @since 0.1.0
 * @category models
 */
export type NewDocument<A> = A extends { readonly _id: infer Id } ? Omit<A, "_id"> & { readonly _id?: Id } : A

/**
 * The type of a document's `_id`.
 *
 * @since 0.1.0
 * @category models
 */
export type IdOf<A> = A extends { readonly _id?: infer Id } ? Exclude<Id, undefined> : Mongo.ObjectId

/**
 * What every operation takes. `timeout` is for the whole of it, for each batch of a stream.
 *
 * @since 0.1.0
 * @category models
 */
export interface OperationOptions {
  readonly timeout?: Duration.DurationInput | undefined
  /** Shown in the server's log and profiler. */
  readonly comment?: string | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface FindOneOptions extends OperationOptions {
  readonly sort?: Mongo.Sort
  readonly skip?: number
  /** What of each document is sent. The schema of the collection has to do with it. */
  readonly projection?: Mongo.Document
  readonly collation?: Mongo.CollationOptions
  readonly hint?: Mongo.Hint
}

/**
 * @since 0.1.0
 * @category models
 */
export interface FindOptions extends FindOneOptions {
  readonly limit?: number
  /** The most documents that are sent at once: 1,000. */
  readonly batchSize?: number
  readonly allowDiskUse?: boolean
}

/**
 * @since 0.1.0
 * @category models
 */
export interface UpdateOptions extends OperationOptions {
  /** Inserts a document where none matches. */
  readonly upsert?: boolean
  readonly arrayFilters?: ReadonlyArray<Mongo.Document>
  readonly collation?: Mongo.CollationOptions
  readonly hint?: Mongo.Document
  readonly let?: Mongo.Document
}

/**
 * @since 0.1.0
 * @category models
 */
export interface DeleteOptions extends OperationOptions {
  readonly collation?: Mongo.CollationOptions
  readonly hint?: Mongo.Document
  readonly let?: Mongo.Document
}

/**
 * `returning` says which of the two is given: the document as it was, or as it is then (default).
 *
 * @since 0.1.0
 * @category models
 */
export interface ModifyOptions extends OperationOptions {
  readonly returning?: "before" | "after"
  readonly sort?: Mongo.Sort
  readonly projection?: Mongo.Document
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ReplaceOptions extends ModifyOptions {
  readonly upsert?: boolean
  readonly collation?: Mongo.CollationOptions
  readonly hint?: Mongo.Document
  readonly let?: Mongo.Document
}

/**
 * @since 0.1.0
 * @category models
 */
export interface AggregateOptions extends OperationOptions {
  readonly batchSize?: number
  readonly allowDiskUse?: boolean
  readonly collation?: Mongo.CollationOptions
  readonly hint?: Mongo.Hint
  readonly let?: Mongo.Document
}

/**
 * `ordered` (default) stops at the first failure; otherwise all are tried.
 *
 * @since 0.1.0
 * @category models
 */
export interface BulkWriteOptions extends OperationOptions {
  readonly ordered?: boolean
}

/**
 * How many documents matched, how many of those were changed, and the id of one that was inserted instead.
 *
 * @since 0.1.0
 * @category models
 */
export interface UpdateResult<Id> {
  readonly matched: number
  readonly modified: number
  readonly upsertedId: Option.Option<Id>
}

/**
 * What a write of many did.
 *
 * @since 0.1.0
 * @category models
 */
export interface BulkWriteResult {
  readonly inserted: number
  readonly matched: number
  readonly modified: number
  readonly deleted: number
  readonly upserted: number
}

/**
 * What an update does: operators, or the stages of a pipeline.
 *
 * @since 0.1.0
 * @category models
 */
export type Update<I> = Mongo.UpdateFilter<I> | ReadonlyArray<Mongo.Document>

/**
 * One operation of `bulkWrite`.
 *
 * @since 0.1.0
 * @category models
 */
export type WriteModel<A, I> =
  | { readonly insertOne: NewDocument<A> }
  | {
      readonly replaceOne: {
        readonly filter: Mongo.Filter<I>
        readonly replacement: NewDocument<A>
        readonly upsert?: boolean
      }
    }
  | { readonly updateOne: { readonly filter: Mongo.Filter<I>; readonly update: Update<I> } & UpdateOptions }
  | { readonly updateMany: { readonly filter: Mongo.Filter<I>; readonly update: Update<I> } & UpdateOptions }
  | { readonly deleteOne: { readonly filter: Mongo.Filter<I> } }
  | { readonly deleteMany: { readonly filter: Mongo.Filter<I> } }

/**
 * An index that is to be.
 *
 * @since 0.1.0
 * @category models
 */
export interface IndexDescription {
  /** Fields in their order: 1 ascending, -1 descending, or `text`, `2dsphere`, `hashed`. */
  readonly key: Readonly<Record<string, Mongo.IndexDirection>>
  readonly name?: string
  readonly unique?: boolean
  readonly sparse?: boolean
  readonly partialFilterExpression?: Mongo.Document
  /** How long after the date in the field a document is removed. */
  readonly expireAfter?: Duration.DurationInput
  readonly collation?: Mongo.CollationOptions
  readonly hidden?: boolean
}

/**
 * Where a change stream can be taken up again. It is the server's, and can be stored as it is.
 *
 * @since 0.1.0
 * @category models
 */
export type ResumeToken = object

/**
 * A change. `document` is there after an insert and a replacement, and after an update if `fullDocument` asks for it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ChangeEvent<A> {
  /** `insert`, `update`, `replace`, `delete`, `drop`, `rename`, `dropDatabase`, `invalidate`. */
  readonly operationType: string
  readonly resumeToken: ResumeToken
  readonly clusterTime: Option.Option<Mongo.Timestamp>
  readonly documentKey: Option.Option<Mongo.Document>
  readonly document: Option.Option<A>
  readonly documentBefore: Option.Option<A>
  readonly update: Option.Option<{ readonly updated: Mongo.Document; readonly removed: ReadonlyArray<string> }>
}

/**
 * From where and how changes are watched.
 *
 * @since 0.1.0
 * @category models
 */
export interface WatchOptions {
  /** Stages behind the changes: `$match` and the like. They must leave the `_id`. */
  readonly pipeline?: ReadonlyArray<Mongo.Document>
  /** Behind this change. */
  readonly resumeAfter?: ResumeToken
  /** Behind this change, also where it is an `invalidate`. */
  readonly startAfter?: ResumeToken
  readonly startAt?: Mongo.Timestamp
  readonly fullDocument?: "updateLookup" | "whenAvailable" | "required"
  readonly fullDocumentBeforeChange?: "whenAvailable" | "required"
  readonly batchSize?: number
  /** When to try again while the server is away: growing up to 5 s, twenty times in a row. */
  readonly reconnect?: Schedule.Schedule<unknown, unknown>
}

/**
 * How a collection is treated.
 *
 * @since 0.1.0
 * @category models
 */
export interface CollectionOptions {
  /** Another database than that of the connection. */
  readonly database?: string
  /** What becomes of stored documents that are not as the schema says: a failure (default), or left out and counted. */
  readonly invalid?: "fail" | "skip"
  /** What is read of each document, where a call does not say. */
  readonly projection?: Mongo.Document
  readonly timeout?: Duration.DurationInput
  readonly readPreference?: Mongo.ReadPreferenceMode
  readonly readConcern?: Mongo.ReadConcernLike
  readonly writeConcern?: Mongo.WriteConcern
}

/**
 * A collection of documents `A`, which are stored as `I`: filters and updates speak of what is stored.
 *
 * A filter that holds `undefined` anywhere is refused (`InvalidRequest`), for the driver would leave it out and match
 * more; `{}` is the one that matches all. Fields that the schema does not know are left out when they are read.
 *
 * @since 0.1.0
 * @category models
 */
export interface Collection<A, I> {
  readonly name: string
  /** Gives the `_id`. */
  readonly insertOne: (
    document: NewDocument<A>,
    options?: OperationOptions
  ) => Effect.Effect<IdOf<A>, ConnectionError | DocumentInvalid>
  /** Gives the ids in the order of the documents. */
  readonly insertMany: (
    documents: ReadonlyArray<NewDocument<A>>,
    options?: BulkWriteOptions
  ) => Effect.Effect<ReadonlyArray<IdOf<A>>, ConnectionError | BulkWriteError | DocumentInvalid>
  readonly findOne: (
    filter: Mongo.Filter<I>,
    options?: FindOneOptions
  ) => Effect.Effect<Option.Option<A>, ConnectionError | DocumentInvalid>
  readonly findById: (
    id: IdOf<A>,
    options?: FindOneOptions
  ) => Effect.Effect<Option.Option<A>, ConnectionError | DocumentInvalid>
  /** Batch by batch, as they are taken. */
  readonly find: (filter: Mongo.Filter<I>, options?: FindOptions) => Stream.Stream<A, ConnectionError | DocumentInvalid>
  readonly findAll: (
    filter: Mongo.Filter<I>,
    options?: FindOptions
  ) => Effect.Effect<ReadonlyArray<A>, ConnectionError | DocumentInvalid>
  readonly updateOne: (
    filter: Mongo.Filter<I>,
    update: Update<I>,
    options?: UpdateOptions
  ) => Effect.Effect<UpdateResult<IdOf<A>>, ConnectionError | DocumentInvalid>
  readonly updateMany: (
    filter: Mongo.Filter<I>,
    update: Update<I>,
    options?: UpdateOptions
  ) => Effect.Effect<UpdateResult<IdOf<A>>, ConnectionError | DocumentInvalid>
  readonly replaceOne: (
    filter: Mongo.Filter<I>,
    document: NewDocument<A>,
    options?: ReplaceOptions
  ) => Effect.Effect<UpdateResult<IdOf<A>>, ConnectionError | DocumentInvalid>
  /** Gives how many there were. */
  readonly deleteOne: (filter: Mongo.Filter<I>, options?: DeleteOptions) => Effect.Effect<number, ConnectionError>
  readonly deleteMany: (filter: Mongo.Filter<I>, options?: DeleteOptions) => Effect.Effect<number, ConnectionError>
  readonly findOneAndUpdate: (
    filter: Mongo.Filter<I>,
    update: Update<I>,
    options?: ModifyOptions & UpdateOptions
  ) => Effect.Effect<Option.Option<A>, ConnectionError | DocumentInvalid>
  readonly findOneAndReplace: (
    filter: Mongo.Filter<I>,
    document: NewDocument<A>,
    options?: ReplaceOptions
  ) => Effect.Effect<Option.Option<A>, ConnectionError | DocumentInvalid>
  readonly findOneAndDelete: (
    filter: Mongo.Filter<I>,
    options?: DeleteOptions & Pick<ModifyOptions, "sort" | "projection">
  ) => Effect.Effect<Option.Option<A>, ConnectionError | DocumentInvalid>
  /** How many match, exactly. */
  readonly countDocuments: (
    filter?: Mongo.Filter<I>,
    options?: OperationOptions
  ) => Effect.Effect<number, ConnectionError>
  /** How many there are, from the collection's own statistics. */
  readonly estimatedCount: Effect.Effect<number, ConnectionError>
  readonly distinct: <B, IB>(
    path: string,
    schema: Schema.Schema<B, IB>,
    filter?: Mongo.Filter<I>,
    options?: OperationOptions
  ) => Effect.Effect<ReadonlyArray<B>, ConnectionError | DocumentInvalid>
  readonly aggregate: <B, IB>(
    pipeline: ReadonlyArray<Mongo.Document>,
    schema: Schema.Schema<B, IB>,
    options?: AggregateOptions
  ) => Stream.Stream<B, ConnectionError | DocumentInvalid>
  readonly aggregateAll: <B, IB>(
    pipeline: ReadonlyArray<Mongo.Document>,
    schema: Schema.Schema<B, IB>,
    options?: AggregateOptions
  ) => Effect.Effect<ReadonlyArray<B>, ConnectionError | DocumentInvalid>
  readonly bulkWrite: (
    models: ReadonlyArray<WriteModel<A, I>>,
    options?: BulkWriteOptions
  ) => Effect.Effect<BulkWriteResult, ConnectionError | BulkWriteError | DocumentInvalid>
  /** Gives their names. What is there already is left as it is. */
  readonly createIndexes: (
    indexes: ReadonlyArray<IndexDescription>
  ) => Effect.Effect<ReadonlyArray<string>, ConnectionError>
  readonly listIndexes: Effect.Effect<ReadonlyArray<Mongo.Document>, ConnectionError>
  readonly dropIndex: (name: string) => Effect.Effect<void, ConnectionError>
  readonly drop: Effect.Effect<boolean, ConnectionError>
  /**
   * The changes from now on, or from where the options say. While the server is away it is tried again behind the last
   * change, so none is lost and none comes twice. It ends after an `invalidate`.
   */
  readonly watch: (
    options?: WatchOptions
  ) => Stream.Stream<ChangeEvent<A>, ConnectionError | ChangeStreamHistoryLost | DocumentInvalid>
  /** How many documents were left out, if `invalid` is `skip`. */
  readonly skipped: Effect.Effect<number>
}

/**
 * How a transaction is run.
 *
 * @since 0.1.0
 * @category models
 */
export interface TransactionOptions {
  /** How often the whole is run again after a `TransientTransactionError`: 10 times, with a growing, random wait. */
  readonly retries?: number
  /** When it is run again, instead of `retries`. */
  readonly schedule?: Schedule.Schedule<unknown, unknown>
  readonly readConcern?: Mongo.ReadConcernLike
  readonly writeConcern?: Mongo.WriteConcern
  readonly readPreference?: Mongo.ReadPreferenceLike
}

// ---- the service -------------------------------------------------------------------------------------------------------

/**
 * What one can do with a database.
 *
 * @since 0.1.0
 * @category models
 */
export interface Database {
  /**
   * What the topology allows, by what the server said when it was connected to. An engine other than MongoDB may call
   * itself a replica set and have no change streams: then they fail with `Unsupported`.
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
  const background = makeBackground()
  const transaction = Transaction.makeRef()

  const open: Effect.Effect<Client, ConnectionError, Scope.Scope> = Effect.gen(function* () {
    const mongo = yield* Effect.acquireRelease(
      Effect.try({
        try: () => new driver.MongoClient(Redacted.value(settings.url), options),
        catch: (thrown) =>
          new ConnectionError({
            reason: "InvalidSettings",
            kind: kindName,
            connection: name,
            method: "make",
            description: "the driver does not take the url or the settings: see the cause",
            sent: false,
            cause: thrown
          })
      }),
      (mongo) =>
        // Cursors and sessions first; then whatever still waits for an answer is given up.
        Effect.gen(function* () {
          yield* within(Math.min(1_000, drainTimeout), background.settled())
          const closed = mongo.close(true)
          if ((yield* within(drainTimeout, closed)) === "late") yield* Effect.sync(() => destroy(mongo))
        })
    )
    counts.follow(mongo)
    const db = mongo.db(database)
    const answer = yield* attempt(at("connect"), connectTimeout, false, async (signal) => {
      await mongo.connect()
      return db.admin().command({ hello: 1 }, { signal })
    })
    const isSet = typeof answer["setName"] === "string" || answer["msg"] === "isdbgrid"
    return { mongo, db, capabilities: { transactions: isSet, changeStreams: isSet } }
  })

  const lifecycle = yield* ConnectionLifecycle.make<Client>({
    kind: kindName,
    name,
    plane,
    connect: settings.connect,
    connectTimeout,
    drainTimeout,
    healthTimeout: settings.healthTimeout,
    open,
    check: (client) =>
      Effect.asVoid(attempt(at("ping"), connectTimeout, false, (signal) => client.db.command({ ping: 1 }, { signal }))),
    stats: (): Effect.Effect<ConnectionStats> => Effect.sync(counts.read),
    watch: { slowAfter: settings.slowAfter, logLevels: settings.logLevels }
  })

  const core: Core = {
    kind: kindName,
    name,
    external: plane === "external",
    lifecycle,
    transaction,
    background,
    retryWrites: options.retryWrites ?? true,
    counts,
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
  const api: Database = {
    capabilities: Effect.map(lifecycle.client, (client) => client.capabilities),
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
        f(client.db, driver)
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
