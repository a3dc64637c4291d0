/** Begins, commits and rolls back; runs the whole again after a transient error, and COMMIT alone after a lost answer. */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Mongo from "mongodb"
import { type Client, type Core, operationOf } from "./core.ts"
import { codeOf, hasLabel, isLost } from "./errors.ts"
import { CommitOutcomeUnknown, type TransactionOptions } from "./model.ts"
import { attempt, within } from "./operation.ts"
import { isTransient, type Transaction } from "./transaction.ts"

const failure = (core: Core, reason: "Unsupported" | "InvalidRequest" | "Timeout", description: string) =>
  new ConnectionError({ reason, kind: core.kind, connection: core.name, method: "transaction", description })

/** 5 ms, half as much again each time up to 500 ms, spread at random. */
const growing = (retries: number) =>
  Schedule.exponential("5 millis", 1.5).pipe(
    Schedule.modifyDelay((_, delay) => Duration.min(delay, Duration.millis(500))),
    Schedule.jitteredWith({ min: 0, max: 1 }),
    Schedule.intersect(Schedule.recurs(retries))
  )

interface Outcome<A, E> {
  readonly _tag: "Done" | "Again"
  readonly exit: Exit.Exit<A, E | ConnectionError | CommitOutcomeUnknown>
}

const done = <A, E>(_tag: "Done" | "Again", exit: Outcome<A, E>["exit"]): Outcome<A, E> => ({ _tag, exit })

export const run = <A, E, R>(
  core: Core,
  effect: Effect.Effect<A, E, R>,
  options: TransactionOptions = {}
): Effect.Effect<A, E | ConnectionError | CommitOutcomeUnknown, R> =>
  FiberRef.getWith(core.transaction, (outer) =>
    outer !== undefined && !outer.over ? join(core, outer, effect) : Effect.suspend(() => begin(core, effect, options))
  )

const begin = <A, E, R>(
  core: Core,
  effect: Effect.Effect<A, E, R>,
  options: TransactionOptions
): Effect.Effect<A, E | ConnectionError | CommitOutcomeUnknown, R> => {
  const asked: Asked = { attempts: 0, pending: undefined, answered: true }
  let committed: Exit.Exit<A, E> | undefined
  const used = core.lifecycle.connection.use((client) =>
    client.capabilities.transactions
      ? Effect.flatMap(Schedule.driver(options.schedule ?? growing(options.retries ?? 10)), (driver) => {
          const onCommitted = (exit: Exit.Exit<A, E>): void => {
            committed = exit
          }
          const loop: Effect.Effect<A, E | ConnectionError | CommitOutcomeUnknown, R> = Effect.flatMap(
            once(core, client, effect, options, asked, onCommitted),
            (outcome) =>
              outcome._tag === "Done"
                ? outcome.exit
                : Effect.matchEffect(driver.next(undefined), {
                    onFailure: () => outcome.exit,
                    onSuccess: () => loop
                  })
          )
          return loop
        })
      : failure(core, "Unsupported", "transactions need a replica set or a sharded cluster, and this server is neither")
  )
  // Who is not waited for any longer by the release is told so at once, whatever has become of COMMIT.
  return Effect.catchAll(used, (error): Effect.Effect<A, E | ConnectionError | CommitOutcomeUnknown> => {
    if (!(error instanceof ConnectionError) || error.reason !== "Closed") return Effect.fail(error)
    if (committed !== undefined) return committed
    return asked.answered ? Effect.fail(error) : Effect.fail(unknownOutcome(core, asked, error))
  })
}

/** MongoDB has no savepoints: where an inner one fails, what it wrote can only go with the outer one. */
const join = <A, E, R>(core: Core, outer: Transaction, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.onExit(effect, (exit) =>
    Effect.sync(() => {
      if (Exit.isSuccess(exit)) return
      outer.doom ??= {
        error: failure(core, "InvalidRequest", "a transaction within this one failed, so all of it was rolled back"),
        transient: false
      }
    })
  )

const once = <A, E, R>(
  core: Core,
  client: Client,
  effect: Effect.Effect<A, E, R>,
  options: TransactionOptions,
  asked: Asked,
  onCommitted: (exit: Exit.Exit<A, E>) => void
): Effect.Effect<Outcome<A, E>, never, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const session = client.mongo.startSession()
      session.startTransaction({
        maxCommitTimeMS: core.endTimeout,
        ...(options.readConcern === undefined ? {} : { readConcern: options.readConcern }),
        ...(options.writeConcern === undefined ? {} : { writeConcern: options.writeConcern }),
        ...(options.readPreference === undefined ? {} : { readPreference: options.readPreference })
      })
      const transaction: Transaction = { session, lock: Effect.unsafeMakeSemaphore(1), over: false, doom: undefined }
      const exit = yield* Effect.exit(restore(Effect.locally(effect, core.transaction, transaction)))
      transaction.over = true
      // An operation of a fiber that nobody joined may still be under way.
      const wait = Exit.isSuccess(exit) ? core.endTimeout : Math.min(core.endTimeout, 1_000)
      const last = yield* Effect.timeoutOption(Effect.interruptible(transaction.lock.take(1)), wait)
      // Who comes after that finds that it is over.
      if (Option.isSome(last)) yield* transaction.lock.release(1)
      // Read after that, for it may have failed.
      const doom = transaction.doom as Transaction["doom"]
      if (Exit.isSuccess(exit) && doom === undefined && Option.isSome(last)) {
        asked.attempts = 0
        asked.pending = undefined
        const committed = yield* Effect.exit(commit(core, client, session, asked))
        if (Exit.isSuccess(committed)) onCommitted(exit)
        yield* end(core, session, asked.pending)
        if (Exit.isSuccess(committed)) return done<A, E>("Done", exit)
        const again = committed.cause._tag === "Fail" && isTransient(causeOf(committed.cause.error))
        return done<A, E>(again ? "Again" : "Done", Exit.failCause(committed.cause))
      }
      yield* end(core, session)
      const interrupted = Exit.isFailure(exit) && Exit.isInterrupted(exit)
      const result: Outcome<A, E>["exit"] = Exit.isFailure(exit)
        ? exit
        : Exit.fail(
            doom?.error ??
              failure(core, "Timeout", "an operation of a fiber that was not joined did not end, so it was rolled back")
          )
      return done<A, E>(doom?.transient === true && !interrupted ? "Again" : "Done", result)
    })
  )

const causeOf = (error: unknown): unknown => (error instanceof ConnectionError ? error.cause : undefined)

/** The COMMIT of the attempt that is under way. */
interface Asked {
  /** How often it was sent. */
  attempts: number
  /** The one that was sent last. */
  pending: Promise<unknown> | undefined
  /** False from when it is sent until it is known what became of it. */
  answered: boolean
}

const unknownOutcome = (core: Core, { attempts }: Asked, { cause }: ConnectionError) =>
  new CommitOutcomeUnknown({ connection: core.name, attempts, ...(cause === undefined ? {} : { cause }) })

/**
 * Rolls back what is not committed, and gives the session back. A COMMIT that has no answer yet keeps the session: while
 * that lasts the driver would roll back. Nobody waits for a server that does not answer.
 */
const end = (core: Core, session: Mongo.ClientSession, pending?: Promise<unknown>): Effect.Effect<void> =>
  Effect.suspend(() => {
    const ended =
      pending === undefined ? session.endSession() : Promise.allSettled([pending]).then(() => session.endSession())
    core.background.add(ended)
    return Effect.asVoid(within(Math.min(core.endTimeout, 1_000), ended))
  })

const maybeDone = (error: ConnectionError): boolean => {
  const { cause } = error
  const code = codeOf(cause)
  if (code === 79 || code === 100) return false
  return (
    (error.reason === "Timeout" && cause === undefined) ||
    isLost(cause) ||
    hasLabel(cause, "RetryableWriteError") ||
    hasLabel(cause, "UnknownTransactionCommitResult") ||
    code === 50 ||
    code === 64 ||
    (cause instanceof Error && cause.name === "MongoWriteConcernError")
  )
}

const commit = (
  core: Core,
  { calls }: Client,
  session: Mongo.ClientSession,
  asked: Asked
): Effect.Effect<void, ConnectionError | CommitOutcomeUnknown> => {
  const operation = operationOf(core, "commitTransaction", true)
  return Effect.flatMap(Clock.currentTimeMillis, (began) => {
    let unknown = false
    const next: Effect.Effect<void, ConnectionError | CommitOutcomeUnknown> = Effect.flatMap(
      Clock.currentTimeMillis,
      (now) =>
        Effect.catchAll(
          core.lifecycle.call(
            operation.at.method,
            () =>
              attempt(
                operation.at,
                Math.max(1, core.endTimeout - (now - began)),
                true,
                () => {
                  asked.attempts++
                  asked.answered = false
                  const pending = session.commitTransaction()
                  asked.pending = pending
                  return pending
                },
                { calls }
              ),
            { idempotent: false, attributes: operation.attributes, spanName: operation.spanName, timeout: false }
          ),
          (error) => {
            const failed = () => {
              if (unknown) return Effect.fail(unknownOutcome(core, asked, error))
              asked.answered = true
              return Effect.fail(error)
            }
            const notSent = error.sent === false
            // Nothing is sent any more.
            const closed = error.reason === "Closed"
            // The connection was released, and what was sent had no answer.
            const released = closed && !notSent && !asked.answered
            if (released || maybeDone(error)) unknown = true
            else if (!notSent) return failed()
            // The driver's own promise has not ended, so it cannot be asked again.
            const hangs = error.reason === "Timeout" && error.cause === undefined
            return Effect.flatMap(Clock.currentTimeMillis, (now) =>
              closed || hangs || asked.attempts >= 5 || now - began >= core.endTimeout
                ? failed()
                : Effect.zipRight(Effect.sleep(50 * 2 ** asked.attempts), next)
            )
          }
        )
    )
    return Effect.tap(next, () =>
      Effect.sync(() => {
        asked.answered = true
      })
    )
  })
}
