/**
 * Transactions whose COMMIT can fail, with savepoints that do not mix, run again where PostgreSQL says that they may be.
 */

import { TransactionConnection } from "@effect/sql/SqlClient"
import type * as SqlConnection from "@effect/sql/SqlConnection"
import type { SqlError } from "@effect/sql/SqlError"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Deadline from "@underlay/core/resilience/Deadline"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import { DatabaseError } from "../../database/DatabaseError.ts"
import * as Level from "./level.ts"
import type { Runner } from "./runner.ts"
import type { Result, Session } from "./session.ts"

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
  readonly connection: (level: Level.Level<S>) => SqlConnection.Connection
  readonly runner: Runner
  /** Whether each transaction has a span, with BEGIN and COMMIT as calls of their own. */
  readonly watched: boolean
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

// The server ended the connection or crashed, as opposed to: it refused to commit.
const isLoss = (error: ConnectionError): boolean => {
  if (error.sent === false) return false
  const { reason } = error
  return reason === "Unavailable" || reason === "Unknown" || reason === "Timeout" || reason === "Closed"
}

export const make = <S extends Session>(options: Options<S>) => {
  const { own, runner } = options
  const endMillis = Duration.toMillis(options.endTimeout)

  const failure = (
    reason: "InvalidRequest" | "Timeout" | "Closed" | "Unavailable",
    method: string,
    description: string
  ) => new ConnectionError({ reason, kind: options.kind, connection: options.name, method, description })

  const late = (sql: string) =>
    new DatabaseError(
      failure("Timeout", sql, `no answer within ${Duration.format(options.endTimeout)}: the outcome is not known`),
      { outcomeUnknown: sql === "COMMIT" }
    )

  /** Ends a level. A statement of it that is still under way comes first, and nothing comes after. */
  const end = (level: Level.Level, sql: string): Effect.Effect<Result, SqlError> =>
    Effect.suspend(() => {
      level.over = true
      const { session } = level
      const now = Effect.suspend(() => {
        if (!session.isAlive()) {
          return new DatabaseError(
            failure("Unavailable", sql, "the connection was lost before the end of the transaction: it was rolled back")
          )
        }
        return Effect.mapError(
          Level.control(level, {
            sql,
            params: [],
            rows: "array",
            timeout: endMillis,
            final: true,
            within: sql === "COMMIT"
          }),
          (error) => {
            if (!(error instanceof DatabaseError)) return error
            if (error.reason === "Timeout") return late(sql)
            return sql === "COMMIT" && isLoss(error.cause)
              ? new DatabaseError(
                  new ConnectionError({
                    ...error.cause,
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
            return late(sql)
          })
        : Effect.uninterruptible(now)
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

  const inside = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    level: Level.Level<S>,
    span: Tracer.Span | undefined
  ): Effect.Effect<A, E, R> =>
    Effect.locally(
      Effect.mapInputContext(effect, (context: Context.Context<R>) => {
        const within = Context.add(context, TransactionConnection, [options.connection(level), level.depth] as const)
        return span === undefined ? within : Context.add(within, Tracer.ParentSpan, span)
      }),
      own,
      level
    )

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

  // The outermost transaction: BEGIN and COMMIT on a session of its own.
  const outermost = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    opening: string,
    span: Tracer.Span | undefined,
    attempt: Attempt
  ): Effect.Effect<A, E | SqlError, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const body = Effect.gen(function* () {
          const begun = Effect.flatMap(Scope.extend(options.acquire, scope), (session) => {
            const level = Level.make(session, undefined, opening)
            if (!options.watched) {
              level.begin = opening
              return Effect.succeed(level)
            }
            return Effect.as(Level.control(level, { sql: opening, params: [], rows: "array" }), level)
          })
          const level = yield* restore(observed(opening, begun, span))
          const { session } = level
          const exit = yield* Effect.exit(restore(inside(effect, level, span)))
          attempt.conflict = level.conflict
          if (level.begin !== undefined) {
            // Nothing was asked of the database: there is nothing to end.
            level.over = true
            return yield* Exit.isSuccess(exit) && leftOpen(level) ? unfinished : exit
          }
          if (Exit.isSuccess(exit) && !leftOpen(level)) {
            const commit = Effect.tapError(end(level, "COMMIT"), () => Effect.sync(session.mark))
            const committed = Effect.onExit(observed("COMMIT", commit, span), () =>
              Effect.sync(() => {
                attempt.conflict = level.conflict
              })
            )
            const { command } = yield* committed
            if (command !== "ROLLBACK") {
              attempt.conflict = false
              return exit.value
            }
            // The server says so by the command only: a statement failed, and its error was not passed on.
            return yield* new DatabaseError(
              failure("InvalidRequest", "COMMIT", "a statement of the transaction had failed, so all was rolled back")
            )
          }
          level.over = true
          // A session whose statement was interrupted is thrown away, and the server rolls back by itself.
          if (!session.isMarked()) {
            yield* Effect.catchAll(end(level, "ROLLBACK"), () => Effect.sync(session.mark))
          }
          return yield* Exit.isSuccess(exit) ? unfinished : exit
        })
        return yield* Effect.onExit(body, (exit) => Scope.close(scope, exit))
      })
    )

  // A transaction in a transaction: a savepoint. Its neighbours wait until it is over.
  const nested = <A, E, R>(effect: Effect.Effect<A, E, R>, outer: Level.Level<S>, span: Tracer.Span | undefined) => {
    const body = Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        const { session } = outer
        const savepoint = `underlay_${outer.depth + 1}`
        const level = Level.make(session, outer, "")
        const undo = Effect.suspend(() => {
          level.over = true
          if (Level.isOver(outer)) return Effect.void
          return Effect.matchEffect(end(level, `ROLLBACK TO SAVEPOINT ${savepoint}`), {
            onSuccess: () =>
              Effect.sync(() => {
                Level.root(level).conflict = false
              }),
            onFailure: () => Effect.sync(session.mark)
          })
        })
        yield* restore(Level.control(level, { sql: `SAVEPOINT ${savepoint}`, params: [], rows: "array" }))
        const exit = yield* Effect.exit(restore(inside(effect, level, span)))
        if (Exit.isFailure(exit) || leftOpen(level)) {
          yield* undo
          return yield* Exit.isSuccess(exit) ? unfinished : exit
        }
        if (Level.isOver(outer)) {
          level.over = true
          return yield* new DatabaseError(
            failure("Closed", "COMMIT", "the transaction round it has ended, and with it this one")
          )
        }
        return yield* end(level, `RELEASE SAVEPOINT ${savepoint}`).pipe(
          Effect.as(exit.value),
          Effect.catchAll((error) => Effect.zipRight(undo, error))
        )
      })
    )
    return Level.alone(options, outer, "transaction", body)
  }

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
    const opening = openingOf(given)
    const once = (attempt: Attempt): Effect.Effect<A, E | SqlError, R> => {
      const open = (span: Tracer.Span | undefined): Effect.Effect<A, E | SqlError, R> =>
        Effect.flatMap(FiberRef.get(own), (outer): Effect.Effect<A, E | SqlError, R> => {
          if (outer === undefined) return outermost(effect, opening, span, attempt)
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
