/** Change streams: events with their resume tokens, begun again behind the last one when the server was away. */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type * as Mongo from "mongodb"
import { Abort } from "./abort.ts"
import { type Client, type Core, callOptions, cursorGrace, type Decode, type Operation } from "./core.ts"
import { codeOf, hasLabel } from "./errors.ts"
import type { ChangeEvent, DocumentInvalid, ResumeToken, WatchOptions } from "./model.ts"
import { ChangeStreamHistoryLost } from "./model.ts"
import { arm, attempt, untilReleased } from "./operation.ts"

type Watched = Mongo.ChangeStream<Mongo.Document, Mongo.ChangeStreamDocument<Mongo.Document>>

/** What can be watched. */
export interface Watchable {
  readonly watch: (pipeline: Array<Mongo.Document>, options: Mongo.ChangeStreamOptions) => Watched
}

/** How long the server waits for a change before it says that there is none, in milliseconds. */
const awaited = 500

const isLost = (error: ConnectionError): boolean =>
  codeOf(error.cause) === 286 || codeOf(error.cause) === 280 || hasLabel(error.cause, "NonResumableChangeStreamError")

const mayResume = (error: ConnectionError): boolean =>
  error.reason === "Unavailable" ||
  error.reason === "Timeout" ||
  // No socket was free in time, or the server is overloaded: that is no reason to lose the place.
  error.reason === "Throttled" ||
  codeOf(error.cause) === 43 ||
  hasLabel(error.cause, "ResumableChangeStreamError")

/** Waits 100 ms, then twice as long each time up to 5 s; it gives up when twenty attempts in a row have failed. */
const patiently = Schedule.exponential("100 millis").pipe(
  Schedule.modifyDelay((_, delay) => Duration.min(delay, Duration.seconds(5))),
  Schedule.intersect(Schedule.recurs(20))
)

export const watch = <A>(
  core: Core,
  operation: Operation,
  target: (client: Client) => Watchable,
  decode: Decode<A>,
  onSkipped: (() => void) | undefined,
  options: WatchOptions = {}
): Stream.Stream<ChangeEvent<A>, ConnectionError | ChangeStreamHistoryLost | DocumentInvalid> =>
  core.lifecycle.stream(
    operation.at.method,
    (client) =>
      client.capabilities.changeStreams
        ? ofClient(core, operation, target(client), decode, onSkipped, options)
        : Stream.fail(
            new ConnectionError({
              reason: "Unsupported",
              kind: core.kind,
              connection: core.name,
              method: operation.at.method,
              description: "change streams need a replica set or a sharded cluster, and this server is neither",
              sent: false
            })
          ),
    // The first event may come tomorrow.
    { attributes: operation.attributes, spanName: operation.spanName, timeout: false }
  )

/**
 * Whether the database has change streams, asked once: other engines call themselves a replica set and have none, and
 * nobody has them of `admin`, `config` and `local`. Who may not open one still has a database that could.
 */
export const supported = (core: Core, operation: Operation, client: Client): Effect.Effect<boolean, ConnectionError> =>
  Effect.suspend(() => {
    const { answers, capabilities } = client
    if (!capabilities.changeStreams) return Effect.succeed(false)
    if (answers.changeStreams !== undefined) return Effect.succeed(answers.changeStreams)
    return core.lifecycle.call(
      operation.at.method,
      (client) =>
        Effect.matchEffect(tried(core, operation, client), {
          // "No" is an answer as well.
          onFailure: (error) => {
            const code = codeOf(error.cause)
            return error.reason === "Unsupported" || code === unknownStage || code === internalDatabase
              ? keep(client, false)
              : error.reason === "PermissionDenied"
                ? keep(client, true)
                : Effect.fail(error)
          },
          onSuccess: () => keep(client, true)
        }),
      callOptions(core, operation, core.timeout, false)
    )
  })

const keep = (client: Client, found: boolean): Effect.Effect<boolean> =>
  Effect.sync(() => {
    client.answers.changeStreams = found
    return found
  })

const tried = (core: Core, operation: Operation, client: Client): Effect.Effect<void, ConnectionError> =>
  attempt(
    operation.at,
    core.timeout,
    false,
    async (signal) => {
      const given: Mongo.ChangeStreamOptions & Mongo.Abortable = { maxAwaitTimeMS: 1, signal }
      const stream = client.db.watch([], given)
      try {
        await stream.tryNext()
      } finally {
        await stream.close()
      }
    },
    { calls: client.calls }
  )

const unknownStage = 40_324

// InvalidNamespace: "may not be opened on the internal admin database".
const internalDatabase = 73

/** A change stream of the driver that is being read. */
interface Held {
  stream: Watched | undefined
  abort: Abort
  /** The request that is under way. */
  pending: Promise<unknown> | undefined
}

const over = new Error("the change stream is closed")

const closeOf = async ({ abort, pending, stream }: Held): Promise<void> => {
  // As with other cursors: the server answers within `awaited`.
  await Promise.allSettled([pending])
  await stream?.close()
  abort.abort(over)
}

const ofClient = <A>(
  core: Core,
  operation: Operation,
  target: Watchable,
  decode: Decode<A>,
  onSkipped: (() => void) | undefined,
  options: WatchOptions
): Stream.Stream<ChangeEvent<A>, ConnectionError | ChangeStreamHistoryLost | DocumentInvalid> =>
  Stream.unwrapScoped(
    Effect.gen(function* () {
      const driver = yield* Schedule.driver(options.reconnect ?? patiently)
      // Plain state of the one fiber that pulls.
      const held = yield* Effect.acquireRelease(
        Effect.sync(
          (): Held => ({
            stream: undefined,
            abort: new Abort(),
            pending: undefined
          })
        ),
        (held) => Effect.sync(() => core.background.add(closeOf(held)))
      )
      let token: ResumeToken | undefined
      let invalid: DocumentInvalid | undefined
      let ended = false

      const begin = (): Watched => {
        const { pipeline = [], reconnect: _, resumeAfter, startAfter, startAt, ...rest } = options
        const from =
          token !== undefined
            ? // The stream of a collection that was dropped can only be started behind that.
              { startAfter: token }
            : startAfter !== undefined
              ? { startAfter }
              : resumeAfter !== undefined
                ? { resumeAfter }
                : startAt !== undefined
                  ? { startAtOperationTime: startAt }
                  : {}
        const abort = new Abort()
        const given: Mongo.ChangeStreamOptions & Mongo.Abortable = {
          maxAwaitTimeMS: awaited,
          batchSize: rest.batchSize ?? 1_000,
          ...(rest.fullDocument === undefined ? {} : { fullDocument: rest.fullDocument }),
          ...(rest.fullDocumentBeforeChange === undefined
            ? {}
            : { fullDocumentBeforeChange: rest.fullDocumentBeforeChange }),
          ...from,
          signal: abort
        }
        held.abort = abort
        return target.watch([...pipeline], given)
      }

      const present = (
        change: Mongo.ChangeStreamDocument<Mongo.Document>
      ): Either.Either<ChangeEvent<A>, DocumentInvalid> => {
        const full = "fullDocument" in change ? change.fullDocument : undefined
        const before = "fullDocumentBeforeChange" in change ? change.fullDocumentBeforeChange : undefined
        return Either.flatMap(part(decode, full), (document) =>
          Either.map(part(decode, before), (documentBefore) => ({
            operationType: change.operationType,
            resumeToken: tokenOf(change._id),
            clusterTime: Option.fromNullable(change.clusterTime),
            documentKey: Option.fromNullable("documentKey" in change ? change.documentKey : undefined),
            document,
            documentBefore,
            update: Option.map(
              Option.fromNullable("updateDescription" in change ? change.updateDescription : undefined),
              (update) => ({ updated: update.updatedFields ?? {}, removed: update.removedFields ?? [] })
            )
          }))
        )
      }

      const next = async (stream: Watched, signal: Abort) => {
        arm(Reflect.get(stream, "cursor"), signal)
        const found: Array<Mongo.ChangeStreamDocument<Mongo.Document>> = []
        const first = await stream.tryNext()
        // What is there already costs no request.
        if (first !== null) found.push(first)
        while (first !== null && found.length < 1_000 && stream.bufferedCount() > 0) {
          const another = await stream.tryNext()
          if (another === null) break
          found.push(another)
        }
        return { found, at: stream.resumeToken }
      }

      const fetch = Effect.suspend(() => {
        const stream = held.stream ?? begin()
        held.stream = stream
        return attempt(
          operation.at,
          core.timeout + awaited,
          false,
          (signal) => {
            const pending = next(stream, signal)
            held.pending = pending
            return pending
          },
          { calls: core.watches, abort: held.abort, grace: cursorGrace }
        )
      })

      const again = (error: ConnectionError): Effect.Effect<void, ConnectionError | ChangeStreamHistoryLost> =>
        Effect.suspend((): Effect.Effect<void, ConnectionError | ChangeStreamHistoryLost> => {
          const { stream } = held
          if (stream !== undefined) {
            token = isToken(stream.resumeToken) ? stream.resumeToken : token
            core.background.add(closeOf({ ...held }))
          }
          held.stream = undefined
          if (isLost(error)) {
            return new ChangeStreamHistoryLost({
              connection: core.name,
              ...(error.cause === undefined ? {} : { cause: error.cause })
            })
          }
          if (!mayResume(error)) return Effect.fail(error)
          return Effect.raceFirst(
            Effect.mapError(Effect.asVoid(driver.next(error)), () => error),
            untilReleased(operation.at, core.watches)
          )
        })

      const pull: Effect.Effect<
        Chunk.Chunk<ChangeEvent<A>>,
        Option.Option<ConnectionError | ChangeStreamHistoryLost | DocumentInvalid>
      > = Effect.suspend(() => {
        if (invalid !== undefined) return Effect.fail(Option.some(invalid))
        if (ended) return Effect.fail(Option.none())
        return Effect.matchEffect(fetch, {
          onFailure: (error) =>
            Effect.matchEffect(again(error), {
              onFailure: (failure) => Effect.fail(Option.some(failure)),
              onSuccess: () => Effect.succeed(Chunk.empty<ChangeEvent<A>>())
            }),
          onSuccess: ({ at, found }) =>
            Effect.as(
              driver.reset,
              Chunk.unsafeFromArray(
                found.flatMap((change): Array<ChangeEvent<A>> => {
                  if (invalid !== undefined || ended) return []
                  token = tokenOf(change._id)
                  const event = present(change)
                  if (Either.isRight(event)) {
                    // After this the server has closed the stream.
                    if (change.operationType === "invalidate") ended = true
                    return [event.right]
                  }
                  if (onSkipped === undefined) invalid = event.left
                  else onSkipped()
                  return []
                })
              )
            ).pipe(
              Effect.tap(() =>
                Effect.sync(() => {
                  if (found.length === 0 && isToken(at)) token = at
                })
              )
            )
        })
      })
      return Stream.repeatEffectChunkOption(pull)
    })
  )

/** The driver has made sure that there is one. */
const tokenOf = (value: unknown): ResumeToken => (isToken(value) ? value : {})

const isToken = (value: unknown): value is ResumeToken => typeof value === "object" && value !== null

const part = <A>(
  decode: Decode<A>,
  document: Mongo.Document | null | undefined
): Either.Either<Option.Option<A>, DocumentInvalid> =>
  document === null || document === undefined
    ? Either.right(Option.none())
    : Either.map(decode(document), (it) => Option.some(it))
