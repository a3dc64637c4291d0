/** What all methods of a connection have in common. */
import type { ConnectionError } from "@underlay/core/connection/Connection"
import type * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type * as Mongo from "mongodb"
import { Abort } from "./abort.ts"
import type { At } from "./errors.ts"
import type { DocumentInvalid } from "./model.ts"
import { arm, attempt, type Background, type Calls, type Told, within } from "./operation.ts"
import type { PoolCounts } from "./poolCounts.ts"
import * as Transaction from "./transaction.ts"

export interface Capabilities {
  readonly transactions: boolean
  readonly changeStreams: boolean
}

export interface Client {
  readonly mongo: Mongo.MongoClient
  readonly db: Mongo.Db
  /** By the topology. */
  readonly capabilities: Capabilities
  /** What the server said when it was asked. */
  readonly answers: { changeStreams: boolean | undefined }
  readonly calls: Calls
}

export interface Core {
  readonly kind: string
  readonly name: string
  readonly external: boolean
  readonly lifecycle: ConnectionLifecycle.Lifecycle<Client>
  readonly transaction: FiberRef.FiberRef<Transaction.Transaction | undefined>
  readonly background: Background
  /** Whether the driver sends writes once more by itself. */
  readonly retryWrites: boolean
  readonly counts: PoolCounts
  /** The change streams: they have no end, so the release of the connection does not wait for one. */
  readonly watches: Calls
  /** Milliseconds: for an operation, and for what ends a transaction. */
  readonly timeout: number
  readonly endTimeout: number
  readonly attributes: Readonly<Record<string, unknown>>
  readonly database: string
}

/** What every operation of the driver is given. */
export interface DriverOptions {
  readonly signal: Abort
  readonly session?: Mongo.ClientSession
}

/** How one operation is named and watched. */
export interface Operation {
  readonly at: At
  readonly write: boolean
  readonly spanName: string
  readonly attributes: Readonly<Record<string, unknown>>
}

export const operationOf = (core: Core, method: string, write: boolean, collection?: string): Operation => ({
  at: { kind: core.kind, name: core.name, method },
  write,
  spanName: `${method} ${collection ?? core.database}`,
  attributes: {
    ...core.attributes,
    "db.operation.name": method,
    "db.query.summary": `${method} ${collection ?? core.database}`,
    ...(collection === undefined ? {} : { "db.collection.name": collection })
  }
})

/** Whole milliseconds, as a timer and the server take them: more than 24 days are as good as for ever. */
export const millisOf = (input: Duration.DurationInput): number =>
  Math.min(2 ** 31 - 1, Math.max(1, Math.ceil(Duration.toMillis(input))))

export const limitOf = (core: Core, timeout: Duration.DurationInput | undefined): number =>
  timeout === undefined ? core.timeout : millisOf(timeout)

/** The server's own limit, a little before ours, so that its answer comes and the socket is kept. */
export const maxTimeMS = (limit: number): number => Math.max(1, Math.ceil(limit - Math.min(250, limit / 10)))

export const callOptions = (core: Core, operation: Operation, limit: number, inTransaction: boolean) => ({
  // Within a transaction nothing is sent again: the whole of it is.
  idempotent: !operation.write && !inTransaction,
  attributes: operation.attributes,
  spanName: operation.spanName,
  ...(core.external ? { timeout: Duration.millis(limit) } : {})
})

/** One operation, in the transaction of its fiber if there is one. */
export const operate = <A>(
  core: Core,
  operation: Operation,
  limit: number,
  f: (client: Client, options: DriverOptions, told: Told) => Promise<A>,
  grace?: number
): Effect.Effect<A, ConnectionError> =>
  FiberRef.getWith(core.transaction, (transaction) =>
    core.lifecycle.call(
      operation.at.method,
      (client) =>
        transaction === undefined
          ? attempt(operation.at, limit, operation.write, (signal, told) => f(client, { signal }, told), {
              calls: client.calls,
              grace,
              resends: operation.write && core.retryWrites
            })
          : Transaction.alone(
              transaction,
              operation.at,
              attempt(
                operation.at,
                limit,
                operation.write,
                (signal, told) => f(client, { signal, session: transaction.session }, told),
                { calls: client.calls }
              )
            ),
      callOptions(core, operation, limit, transaction !== undefined)
    )
  )

/** Decodes what the server gave; the second is what is wrong with it. */
export type Decode<A> = (document: Mongo.Document) => Either.Either<A, DocumentInvalid>

/** The documents of a cursor, batch by batch. The cursor is closed when the stream ends, however it ends. */
export const documents = <A>(
  core: Core,
  operation: Operation,
  limit: number,
  open: (client: Client, options: DriverOptions) => Mongo.AbstractCursor<Mongo.Document>,
  take: (documents: ReadonlyArray<Mongo.Document>) => Batch<A>
): Stream.Stream<A, ConnectionError | DocumentInvalid> =>
  Stream.unwrap(
    FiberRef.getWith(core.transaction, (transaction) =>
      Effect.succeed(
        core.lifecycle.stream(
          operation.at.method,
          (client) =>
            ofCursor(core, client.calls, operation, limit, transaction, (options) => open(client, options), take),
          callOptions(core, operation, limit, transaction !== undefined)
        )
      )
    )
  )

/** What was decoded before the first document that stops the stream. */
export interface Batch<A> {
  readonly documents: ReadonlyArray<A>
  readonly invalid: DocumentInvalid | undefined
}

const closeTimeout = 1_000

/** How long a request that opens a cursor, or asks for more of it, is let finish when nobody waits for it any more. */
export const cursorGrace = 5_000

/** A cursor that is being read. */
interface Held {
  readonly abort: Abort
  cursor: Mongo.AbstractCursor<Mongo.Document> | undefined
  /** The request that is under way. */
  pending: Promise<unknown> | undefined
}

/**
 * Closed once its request is over. Before its first answer the driver does not know the cursor, and while it waits for
 * another it may end the session with which it is to be closed.
 */
const closeOf = async ({ cursor, pending }: Held): Promise<void> => {
  await Promise.allSettled([pending])
  await cursor?.close()
}

const ofCursor = <A>(
  core: Core,
  calls: Calls,
  operation: Operation,
  limit: number,
  transaction: Transaction.Transaction | undefined,
  open: (options: DriverOptions) => Mongo.AbstractCursor<Mongo.Document>,
  take: (documents: ReadonlyArray<Mongo.Document>) => Batch<A>
): Stream.Stream<A, ConnectionError | DocumentInvalid> =>
  Stream.unwrapScoped(
    Effect.map(
      Effect.acquireRelease(
        Effect.sync((): Held => ({ abort: new Abort(), cursor: undefined, pending: undefined })),
        (held) => {
          if (held.cursor === undefined) return Effect.void
          const closing = Effect.suspend(() => {
            const closed = closeOf(held)
            core.background.add(closed)
            // The session of a transaction is for one at a time; otherwise nobody has to wait for it.
            return transaction === undefined ? Effect.void : Effect.asVoid(within(closeTimeout, closed))
          })
          return transaction === undefined ? closing : transaction.lock.withPermits(1)(closing)
        }
      ),
      (held) => {
        let invalid: DocumentInvalid | undefined
        let ended = false
        let last = false
        const more = async (signal: Abort): Promise<ReadonlyArray<Mongo.Document> | undefined> => {
          if (held.cursor === undefined) {
            held.cursor = open(transaction === undefined ? { signal } : { signal, session: transaction.session })
            arm(held.cursor, signal)
          }
          if (!(await held.cursor.hasNext())) return undefined
          const found = held.cursor.readBufferedDocuments()
          // The server has said that these are all: nobody has to be asked again.
          last = held.cursor.closed
          return found
        }
        const fetch = attempt(
          operation.at,
          limit,
          false,
          (signal) => {
            const pending = more(signal)
            held.pending = pending
            return pending
          },
          { calls, abort: held.abort, grace: transaction === undefined ? cursorGrace : undefined }
        )
        const next = transaction === undefined ? fetch : Transaction.alone(transaction, operation.at, fetch)
        const pull: Effect.Effect<Chunk.Chunk<A>, Option.Option<ConnectionError | DocumentInvalid>> = Effect.suspend(
          () => {
            if (invalid !== undefined) return Effect.fail(Option.some(invalid))
            if (ended) return Effect.fail(Option.none())
            return Effect.matchEffect(next, {
              onFailure: (error) => Effect.fail(Option.some(error)),
              onSuccess: (found) => {
                if (found === undefined) {
                  ended = true
                  return Effect.fail(Option.none())
                }
                const batch = take(found)
                invalid = batch.invalid
                ended = last
                return invalid !== undefined && batch.documents.length === 0
                  ? Effect.fail(Option.some(invalid))
                  : Effect.succeed(Chunk.unsafeFromArray(batch.documents))
              }
            })
          }
        )
        return Stream.repeatEffectChunkOption(pull)
      }
    )
  )

/** Decodes in order, until a document is not as it should be; those that are to be skipped are told to `onSkipped`. */
export const taker =
  <A>(decode: Decode<A>, onSkipped: (() => void) | undefined) =>
  (found: ReadonlyArray<Mongo.Document>): Batch<A> => {
    const documents: Array<A> = []
    for (const document of found) {
      const decoded = decode(document)
      if (Either.isRight(decoded)) documents.push(decoded.right)
      else if (onSkipped === undefined) return { documents, invalid: decoded.left }
      else onSkipped()
    }
    return { documents, invalid: undefined }
  }
