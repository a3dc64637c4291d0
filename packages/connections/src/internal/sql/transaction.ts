/**
 * Transactions whose COMMIT can fail, with savepoints that do not mix, run again where PostgreSQL says that they may be.
 */

import { TransactionConnection } from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Deadline from "@underlay/core/resilience/Deadline"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import { DatabaseError } from "../../database/DatabaseError.ts"
import * as Level from "./level.ts"
import * as Pool from "./pool.ts"
import type { Runner } from "./runner.ts"
import type { Params, Result, Session } from "./session.ts"

export interface TransactionOptions {
  readonly isolation?: "read committed" | "repeatable read" | "serializable" | undefined
  readonly readOnly?: boolean | undefined
  readonly deferrable?: boolean | undefined
  readonly retries?: number | undefined
  readonly schedule?: Schedule.Schedule<unknown> | undefined
}

/** How a transaction is begun. */
export const openingOf = (options: TransactionOptions): string =>
  [
    "BEGIN",
    ...(options.isolation === undefined ? [] : [`ISOLATION LEVEL ${options.isolation.toUpperCase()}`]),
    ...(options.readOnly === undefined ? [] : [options.readOnly ? "READ ONLY" : "READ WRITE"]),
    ...(options.deferrable === undefined ? [] : [options.deferrable ? "DEFERRABLE" : "NOT DEFERRABLE"])
  ].join(" ")

export interface Options<S extends Session> extends Level.Place {
  readonly own: Level.Own<S>
  readonly acquire: Effect.Effect<S, SqlError, Scope.Scope>
  /** Where transactions that are not watched may get their sessions without detours. */
  readonly pool: Pick<Pool.Pool<S>, "request"> | undefined
  readonly connection: (level: Level.Level<S>) => SqlConnection.Connection
  readonly runner: Runner
  /** Whether each transaction has a span, with BEGIN and COMMIT as calls of their own. */
  readonly watched: boolean
  readonly readOnly: boolean
  readonly attributes: Readonly<Record<string, unknown>>
  /** How long COMMIT and ROLLBACK, which cannot be interrupted, may take. */
  readonly endTimeout: Duration.Duration
}

/** Runs an effect that cannot be interrupted from outside and yet ends in time. */
const bounded = <A, E>(effect: Effect.Effect<A, E>, limit: Duration.Duration, late: () => E): Effect.Effect<A, E> =>
  Effect.uninterruptible(
    Effect.gen(function* () {
      const done = yield* Deferred.make<A, E>()
      // A fiber that fails would be logged by the runtime.
      const work = yield* Effect.interruptible(effect).pipe(
        Effect.exit,
        Effect.flatMap((exit) => Deferred.done(done, exit)),
        Effect.forkDaemon
      )
      const timer = yield* Effect.sleep(limit).pipe(
        Effect.interruptible,
        Effect.zipRight(Effect.suspend(() => Deferred.fail(done, late()))),
        Effect.zipRight(Fiber.interruptFork(work)),
        Effect.forkDaemon
      )
      return yield* Effect.ensuring(Deferred.await(done), Fiber.interruptFork(timer))
    })
  )

const none: Params = []

// The server ended the connection or crashed, as opposed to: it refused to commit.
const isLoss = (error: ConnectionError): boolean => {
  if (error.sent === false) return false
  const { reason } = error
  return reason === "Unavailable" || reason === "Unknown" || reason === "Timeout" || reason === "Closed"
}

// It never left: the server rolls back what it was not asked to keep.
const isUnsent = (error: ConnectionError): boolean =>
  error.sent === false && (error.reason === "Unavailable" || error.reason === "Closed")

// The server said no, and its transaction is over: the connection is as good as before.
const isRefusal = (cause: Cause.Cause<SqlError>): boolean =>
  Option.exists(
    Cause.failureOption(cause),
    (error) => error instanceof DatabaseError && (error.reason === "Conflict" || error.reason === "ConstraintViolation")
  )

const isUnknown = (cause: Cause.Cause<SqlError>): boolean =>
  Option.exists(Cause.failureOption(cause), (error) => error instanceof DatabaseError && error.outcomeUnknown)

export const make = <S extends Session>(options: Options<S>) => {
  const { own, runner } = options
  const endMillis = Duration.toMillis(options.endTimeout)

  const failure = (
    reason: "InvalidRequest" | "Timeout" | "Closed" | "Unavailable",
    method: string,
    description: string,
    sent?: false
  ) =>
    new ConnectionError({
      reason,
      kind: options.kind,
      connection: options.name,
      method,
      description,
      ...(sent === undefined ? {} : { sent })
    })

  const late = (sql: string) =>
    new DatabaseError(
      failure("Timeout", sql, `no answer within ${Duration.format(options.endTimeout)}: the outcome is not known`),
      { outcomeUnknown: sql === "COMMIT" }
    )

  /**
   * Ends a level, where nothing interrupts. A statement of it that is still under way comes first, and nothing comes after.
   */
  const end = (level: Level.Level, sql: string): Effect.Effect<Result, SqlError> =>
    Effect.suspend(() => {
      level.over = true
      const { session } = level
      let asked = false
      let tooLate = false
      const waitedFor = () =>
        new DatabaseError(
          failure(
            "Timeout",
            sql,
            `a statement of it was still under way after ${Duration.format(options.endTimeout)}: it was rolled back`,
            false
          )
        )
      const now = Effect.suspend(() => {
        if (tooLate) return waitedFor()
        asked = true
        if (!session.isAlive()) {
          return new DatabaseError(
            failure(
              "Unavailable",
              sql,
              "the connection was lost before the end of the transaction: it was rolled back",
              false
            )
          )
        }
        return Effect.mapError(
          Level.control(options, level, {
            sql,
            params: none,
            rows: "array",
            timeout: endMillis,
            final: true,
            within: sql === "COMMIT"
          }),
          (error) => {
            if (!(error instanceof DatabaseError)) return error
            if (error.reason === "Timeout") return late(sql)
            if (sql === "COMMIT" && isUnsent(error.cause)) {
              return new DatabaseError(
                error.cause.with({
                  method: sql,
                  description: `${error.cause.description} before the end of the transaction: it was rolled back`
                })
              )
            }
            return sql === "COMMIT" && isLoss(error.cause)
              ? new DatabaseError(
                  error.cause.with({
                    method: sql,
                    description: `${error.cause.description}; the outcome is not known: look before it is run again`
                  }),
                  { outcomeUnknown: true }
                )
              : error
          }
        )
      })
      return level.holder === "statement"
        ? bounded(Level.alone(options, level, "end", now), options.endTimeout, () => {
            session.mark()
            if (asked) return late(sql)
            tooLate = true
            return waitedFor()
          })
        : now
    })

  // Whoever forks a nested transaction has to join it.
  const leftOpen = (level: Level.Level): boolean => level.holder === "transaction"

  const unfinished = Effect.suspend(
    () =>
      new DatabaseError(
        failure(
          "InvalidRequest",
          "COMMIT",
          "a nested transaction was still open at the end of the one round it, so all was rolled back: join its fiber"
        )
      )
  )

  const notUndone = Effect.suspend(
    () =>
      new DatabaseError(
        failure(
          "Unavailable",
          "COMMIT",
          "a nested transaction failed and could not be undone by itself, so all was rolled back"
        )
      )
  )

  /**
   * Runs an effect inside a level, and after it, whatever became of it, `then`: within an `uninterruptibleMask`. Both
   * references of the fiber are set by hand, as each `locally` is a scope of its own.
   */
  const inside = <A, E, R, B, E2, R2>(
    effect: Effect.Effect<A, E, R>,
    level: Level.Level<S>,
    span: Tracer.Span | undefined,
    restore: Pool.Restore,
    then: (exit: Exit.Exit<A, E>) => Effect.Effect<B, E2, R2>
  ): Effect.Effect<B, E2, R | R2> =>
    Effect.withFiberRuntime((fiber) => {
      const context = fiber.getFiberRef(FiberRef.currentContext)
      const outer = fiber.getFiberRef(own)
      const within = Context.add(context, TransactionConnection, [options.connection(level), level.depth] as const)
      const at = (level: Level.Level<S> | undefined, context: Context.Context<never>) =>
        Effect.zipRight(FiberRef.set(own, level), FiberRef.set(FiberRef.currentContext, context))
      const leave = (exit: Exit.Exit<A, E>) => Effect.flatMap(at(outer, context), () => then(exit))
      return Effect.zipRight(
        at(level, span === undefined ? within : Context.add(within, Tracer.ParentSpan, span)),
        Effect.matchCauseEffect(restore(effect), {
          onFailure: (cause) => leave(Exit.failCause(cause)),
          onSuccess: (value) => leave(Exit.succeed(value))
        })
      )
    })

  /** BEGIN and COMMIT have limits of their own: a deadline that leaves them half done would help nobody. */
  const observed = <A>(sql: string, effect: Effect.Effect<A, SqlError>, span: Tracer.Span | undefined) =>
    span === undefined
      ? effect
      : runner
          .effect(sql, effect)
          .pipe(Effect.provideService(Deadline.Current, Number.POSITIVE_INFINITY), Effect.withParentSpan(span))

  /** What one run of a transaction leaves behind for the next. */
  interface Attempt {
    conflict: boolean
  }

  /** The level of a transaction that has its session, with what gives that back. */
  interface Held {
    readonly level: Level.Level<S>
    readonly release: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
  }

  /** BEGIN that is not watched goes together with the first statement. */
  const later = (session: S, opening: string, isDoomed: () => boolean): Level.Level<S> => {
    const level = Level.make(session, undefined, opening, isDoomed)
    level.begin = opening
    return level
  }

  /** Begins, where nothing interrupts but what `restore` lets. */
  const begun = (
    opening: string,
    span: Tracer.Span | undefined,
    isDoomed: () => boolean,
    restore: Pool.Restore
  ): Effect.Effect<Held, SqlError> => {
    const { pool, watched } = options
    // Without a scope: this is the way of most transactions.
    if (pool !== undefined && !watched) {
      return Effect.mapBoth(Pool.lease(pool.request, restore), {
        onFailure: (error) => new DatabaseError(error),
        onSuccess: (lease) => ({
          level: later(lease.resource, opening, isDoomed),
          release: () => Effect.sync(lease.release)
        })
      })
    }
    return Effect.flatMap(Scope.make(), (scope) => {
      const opened = Effect.flatMap(Scope.extend(options.acquire, scope), (session) => {
        if (!watched) return Effect.succeed(later(session, opening, isDoomed))
        const level = Level.make(session, undefined, opening, isDoomed)
        return Effect.as(Level.control(options, level, { sql: opening, params: none, rows: "array" }), level)
      })
      return Effect.matchCauseEffect(restore(observed(opening, opened, span)), {
        onFailure: (cause) => Effect.zipRight(Scope.close(scope, Exit.failCause(cause)), Effect.failCause(cause)),
        onSuccess: (level) => Effect.succeed({ level, release: (exit) => Scope.close(scope, exit) })
      })
    })
  }

  // The outermost transaction: BEGIN and COMMIT on a session of its own.
  const outermost = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    opening: string,
    span: Tracer.Span | undefined,
    isDoomed: () => boolean,
    attempt: Attempt
  ): Effect.Effect<A, E | SqlError, R> =>
    Effect.uninterruptibleMask((restore) => {
      const ended = (level: Level.Level<S>, exit: Exit.Exit<A, E>): Effect.Effect<A, E | SqlError> => {
        const { session } = level
        attempt.conflict = level.conflict
        // By a nested one that could not be undone. Nothing is stored, since the session is thrown away.
        if (level.over) return Exit.isSuccess(exit) ? notUndone : exit
        if (level.begin !== undefined) {
          // Nothing was asked of the database: there is nothing to end.
          level.over = true
          return Exit.isSuccess(exit) && leftOpen(level) ? unfinished : exit
        }
        if (Exit.isSuccess(exit) && !leftOpen(level)) {
          return Effect.matchCauseEffect(observed("COMMIT", end(level, "COMMIT"), span), {
            onFailure: (cause) => {
              if (!isRefusal(cause)) session.mark()
              // It may be stored: then it is not for us to run it again, whatever conflict there was before.
              attempt.conflict = level.conflict && !isUnknown(cause)
              return Effect.failCause(cause)
            },
            onSuccess: ({ command }): Effect.Effect<A, E | SqlError> => {
              if (command !== "ROLLBACK") {
                attempt.conflict = false
                return exit
              }
              attempt.conflict = level.conflict
              // The server says so by the command only: a statement failed, and its error was not passed on.
              return new DatabaseError(
                failure("InvalidRequest", "COMMIT", "a statement of the transaction had failed, so all was rolled back")
              )
            }
          })
        }
        level.over = true
        const outcome: Effect.Effect<A, E | SqlError> = Exit.isSuccess(exit) ? unfinished : exit
        // A session whose statement was interrupted, or that somebody still has, is thrown away, and the server rolls
        // back by itself.
        if (leftOpen(level)) session.mark()
        return session.isMarked()
          ? outcome
          : Effect.zipRight(
              Effect.catchAll(end(level, "ROLLBACK"), () => Effect.sync(session.mark)),
              outcome
            )
      }
      return Effect.flatMap(begun(opening, span, isDoomed, restore), ({ level, release }) =>
        Effect.matchCauseEffect(
          inside(effect, level, span, restore, (exit) => ended(level, exit)),
          {
            onFailure: (cause) => Effect.zipRight(release(Exit.failCause(cause)), Effect.failCause(cause)),
            onSuccess: (value) => Effect.as(release(Exit.succeed(value)), value)
          }
        )
      )
    })

  // A transaction in a transaction: a savepoint. Its neighbours wait until it is over.
  const nested = <A, E, R>(effect: Effect.Effect<A, E, R>, outer: Level.Level<S>, span: Tracer.Span | undefined) => {
    const body = Effect.uninterruptibleMask((restore) => {
      const { session } = outer
      const savepoint = `underlay_${outer.depth + 1}`
      const level = Level.make(session, outer, "")
      // What it did is still there, so that the transaction round it must not be stored either.
      const stuck = (): void => {
        if (Level.isOver(outer)) return
        session.mark()
        Level.root(level).over = true
      }
      const undo = Effect.suspend(() => {
        level.over = true
        if (Level.isOver(outer)) return Effect.void
        const sql = `ROLLBACK TO SAVEPOINT ${savepoint}`
        if (session.cancellable && session.isMarked() && Level.root(level).isDoomed()) {
          // All of it is thrown away in a moment. Clean-ups of the one round it come after this all the same, and who
          // interrupts need not wait for a server that may be gone.
          session.submit({ sql, params: none, rows: "array", timeout: endMillis, final: true }, (outcome) => {
            if (outcome instanceof ConnectionError) stuck()
          })
          return Effect.void
        }
        return Effect.matchEffect(end(level, sql), {
          onSuccess: () =>
            Effect.sync(() => {
              Level.root(level).conflict = false
            }),
          onFailure: () => Effect.sync(stuck)
        })
      })
      const ended = (exit: Exit.Exit<A, E>): Effect.Effect<A, E | SqlError> => {
        if (Exit.isFailure(exit) || leftOpen(level)) {
          const outcome: Effect.Effect<A, E | SqlError> = Exit.isSuccess(exit) ? unfinished : exit
          return Effect.zipRight(undo, outcome)
        }
        if (Level.isOver(outer)) {
          level.over = true
          return new DatabaseError(
            failure("Closed", "COMMIT", "the transaction round it has ended, and with it this one")
          )
        }
        return end(level, `RELEASE SAVEPOINT ${savepoint}`).pipe(
          Effect.as(exit.value),
          Effect.catchAll((error) => Effect.zipRight(undo, error))
        )
      }
      return Effect.zipRight(
        restore(
          Level.control(options, level, { sql: `SAVEPOINT ${savepoint}`, params: none, rows: "array", within: true })
        ),
        inside(effect, level, span, restore, ended)
      )
    })
    return Level.alone(options, outer, "transaction", body)
  }

  const onlyReads = Effect.suspend(
    () =>
      new DatabaseError(
        failure(
          "InvalidRequest",
          "BEGIN",
          "this client only reads: for a transaction that writes take `sql`, not `reads`"
        )
      )
  )

  const other = (opening: string) =>
    new DatabaseError(
      failure(
        "InvalidRequest",
        "BEGIN",
        `inside another transaction only its own kind is possible, not ${opening}: ask for it round the outermost`
      )
    )

  const transaction = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    given: TransactionOptions = {}
  ): Effect.Effect<A, E | SqlError, R> => {
    // The server would let it write, and to the primary it might even go.
    if (options.readOnly && given.readOnly === false) return onlyReads
    const opening = openingOf(given)
    const once = (attempt: Attempt): Effect.Effect<A, E | SqlError, R> => {
      const open = (span: Tracer.Span | undefined): Effect.Effect<A, E | SqlError, R> =>
        Effect.withFiberRuntime((fiber, { runtimeFlags }): Effect.Effect<A, E | SqlError, R> => {
          const outer = fiber.getFiberRef(own)
          if (outer === undefined) {
            // Who is interrupted where that is possible never succeeds, whatever catches it.
            const isDoomed = () =>
              RuntimeFlags.interruptible(runtimeFlags) && !Cause.isEmpty(fiber.getFiberRef(FiberRef.interruptedCause))
            return outermost(effect, opening, span, isDoomed, attempt)
          }
          return opening === "BEGIN" || opening === Level.root(outer).opening
            ? nested(effect, outer, span)
            : other(opening)
        })
      return options.watched
        ? Effect.useSpan("sql.transaction", { captureStackTrace: false, attributes: options.attributes }, open)
        : open(undefined)
    }
    const { retries = 0 } = given
    if (retries === 0) return once({ conflict: false })
    return Effect.suspend(() => {
      const attempt: Attempt = { conflict: false }
      return Effect.retry(
        Effect.suspend(() => {
          attempt.conflict = false
          return once(attempt)
        }),
        { times: retries, schedule: given.schedule ?? backoff, while: () => attempt.conflict }
      )
    })
  }

  return transaction
}

const backoff = Schedule.jittered(Schedule.exponential("5 millis")).pipe(
  Schedule.modifyDelay((_, delay) => Duration.min(delay, Duration.seconds(1)))
)
