/** What the collections of MongoDB take and give: options, results and errors. */
import { type ConnectionError, ConnectionErrorReason } from "@underlay/core/connection/Connection"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import type * as Mongo from "mongodb"

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
