/**
 * Transactions as levels, and who of those inside one may use its session: one at a time, in the order of asking.
 */
import type { SqlError } from "@effect/sql/SqlError"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { DatabaseError } from "../../database/DatabaseError.ts"
import { type Outcome, type Request, type Result, type Session, told } from "./session.ts"

/** A transaction, or one nested in it. */
export interface Level<out S extends Session = Session> {
  readonly session: S
  readonly depth: number
  readonly outer: Level | undefined
  /** Of the outermost: what it was begun with. */
  readonly opening: string
  /** BEGIN that is not sent yet: it goes together with the first statement. */
  begin: string | undefined
  /** Of the outermost: it failed because of others, and may be run again. */
  conflict: boolean
  /** Who has the session now: a statement while it runs, a nested transaction for as long as it is open. */
  holder: Holder | undefined
  readonly waiters: Array<Waiter>
  /** Of the outermost: whether it is certain by now that it fails, whatever its effect does. */
  readonly isDoomed: () => boolean
  /** It has ended. What still runs in it must not reach the session, which may be lent to somebody else by now. */
  over: boolean
}

export type Holder = "statement" | "transaction"

interface Waiter {
  readonly as: Holder
  granted: boolean
  resume: () => void
}

/**
 * The transaction that a fiber is in. Its children are in it too; one that joins a fiber is not for that: the context of
 * a fiber, where one would look for it, is taken over by whoever joins it.
 */
export type Own<S extends Session> = FiberRef.FiberRef<Level<S> | undefined>

export const makeOwn = <S extends Session>(): Own<S> =>
  FiberRef.unsafeMake<Level<S> | undefined>(undefined, { join: (own) => own })

export const make = <S extends Session>(
  session: S,
  outer: Level | undefined,
  opening: string,
  isDoomed: () => boolean = () => false
): Level<S> => ({
  session,
  isDoomed,
  outer,
  opening,
  begin: undefined,
  conflict: false,
  depth: outer === undefined ? 0 : outer.depth + 1,
  holder: undefined,
  waiters: [],
  over: false
})

export const isOver = (level: Level | undefined): boolean => level !== undefined && (level.over || isOver(level.outer))

export const root = (level: Level): Level => (level.outer === undefined ? level : root(level.outer))

const free = (level: Level): void => {
  const next = level.waiters.shift()
  level.holder = next?.as
  if (next === undefined) return
  next.granted = true
  next.resume()
}

export interface Place {
  readonly kind: string
  readonly name: string
  /** How long a statement may wait for a nested transaction beside it. */
  readonly acquireTimeout: Duration.Duration
}

const failure = (place: Place, reason: "Timeout" | "Closed", description: string) =>
  new DatabaseError(
    new ConnectionError({
      reason,
      kind: place.kind,
      connection: place.name,
      method: "execute",
      description,
      sent: false
    })
  )

type Restore = <B, E, R>(effect: Effect.Effect<B, E, R>) => Effect.Effect<B, E, R>

/** Waits for one's turn, in the order of asking; or, to end the level, before all who wait. */
const turn = (place: Place, level: Level, as: Holder | "end", restore: Restore): Effect.Effect<void, SqlError> =>
  Effect.suspend(() => {
    const holder = as === "end" ? "statement" : as
    if (level.holder === undefined) {
      level.holder = holder
      return Effect.void
    }
    const waiter: Waiter = { as: holder, granted: false, resume: () => {} }
    if (as === "end") level.waiters.unshift(waiter)
    else level.waiters.push(waiter)
    const granted = Effect.async<void>((resume) => {
      if (waiter.granted) return resume(Effect.void)
      waiter.resume = () => resume(Effect.void)
    })
    // The limit holds where the caller cannot be interrupted too.
    const patiently: Effect.Effect<void, SqlError> = Effect.flatMap(
      Effect.timeoutOption(Effect.disconnect(Effect.interruptible(granted)), place.acquireTimeout),
      (done) =>
        Option.isSome(done) || waiter.granted
          ? Effect.void
          : level.holder === "transaction"
            ? failure(
                place,
                "Timeout",
                `a nested transaction or a COPY beside it did not end within ${Duration.format(place.acquireTimeout)}: ` +
                  "what is inside one must not wait for a statement of the transaction round it"
              )
            : patiently
    )
    return Effect.onExit(restore(patiently), (exit) =>
      Exit.isSuccess(exit)
        ? Effect.void
        : Effect.sync(() => {
            const at = level.waiters.indexOf(waiter)
            if (at >= 0) level.waiters.splice(at, 1)
            if (waiter.granted) free(level)
          })
    )
  })

const ended = (place: Place) => failure(place, "Closed", "the transaction that it belongs to has ended")

/** Runs `effect` as the only one of its level. */
export const alone = <A, E, R>(
  place: Place,
  level: Level,
  as: Holder | "end",
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | SqlError, R> =>
  Effect.uninterruptibleMask((restore) => {
    const work = Effect.suspend(
      (): Effect.Effect<A, E | SqlError, R> => (as !== "end" && isOver(level) ? ended(place) : effect)
    )
    return Effect.zipRight(
      turn(place, level, as, restore),
      Effect.ensuring(
        restore(work),
        Effect.sync(() => free(level))
      )
    )
  })

/** Keeps the level for oneself for as long as a scope is open. */
export const hold = (place: Place, level: Level): Effect.Effect<void, SqlError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.zipRight(
      turn(place, level, "transaction", restore),
      Effect.zipRight(
        Effect.addFinalizer(() => Effect.sync(() => free(level))),
        Effect.suspend(() => (isOver(level) ? ended(place) : Effect.void))
      )
    )
  )

// Serialization failure, deadlock, and a prepared statement whose table was changed: what PostgreSQL says to run again.
const conflicts = (error: ConnectionError): boolean =>
  error.reason === "Conflict" && error.code !== undefined && again.has(error.code)

const again = new Set(["40001", "40P01", "0A000", "26000", "42P05"])

/** What is sent: with the BEGIN of its transaction, if that is not sent yet. */
const withBegin = (level: Level, request: Request): Request => {
  const top = root(level)
  const { begin } = top
  if (begin === undefined) return request
  top.begin = undefined
  return { ...request, begin, within: false }
}

/** The error of what ran in a transaction: whether that may be run again is noted. */
export const failed = (level: Level, error: ConnectionError): DatabaseError => {
  if (conflicts(error)) root(level).conflict = true
  return new DatabaseError(error)
}

const outcomeOf = (level: Level, outcome: Outcome): Effect.Effect<Result, SqlError> =>
  outcome instanceof ConnectionError ? failed(level, outcome) : Effect.succeed(outcome)

/** Runs a statement of a transaction, alone. */
export const execute = (place: Place, level: Level, request: Request): Effect.Effect<Result, SqlError> => {
  const own: Request = { ...request, within: true }
  const queued = () => alone(place, level, "statement", control(place, level, own))
  if (!level.session.cancellable) return queued()
  return told((tell) => {
    if (level.holder !== undefined || isOver(level)) {
      tell(queued())
      return nothing
    }
    // Nobody else is there: the way of most statements, in one step.
    level.holder = "statement"
    const cancel = level.session.submit(withBegin(level, own), (outcome) => {
      free(level)
      tell(outcomeOf(level, outcome))
    })
    return () => {
      cancel()
      free(level)
    }
  })
}

const nothing = (): void => {}

/** Runs what begins or ends a transaction (then it is `final`), by whoever holds the level already. */
export const control = (place: Place, level: Level, request: Request): Effect.Effect<Result, SqlError> => {
  const { session } = level
  const asked = told<Result, SqlError>((tell) => {
    // In the step that submits it: the session may be lent to somebody else a step after the end.
    if (isOver(request.final === true ? level.outer : level)) {
      tell(ended(place))
      return nothing
    }
    return session.submit(withBegin(level, request), (outcome) => tell(outcomeOf(level, outcome)))
  })
  return session.cancellable ? asked : Effect.uninterruptible(asked)
}

/**
 * Sends a BEGIN that waits for the first statement, for what cannot take it along; without one it makes sure that there
 * is a transaction. By whoever holds the level.
 */
export const opened = (place: Place, level: Level): Effect.Effect<void, SqlError> =>
  Effect.suspend(() => {
    const top = root(level)
    const { begin } = top
    top.begin = undefined
    const asked = control(
      place,
      level,
      begin === undefined
        ? { sql: "", params: [], rows: "array", within: true }
        : { sql: begin, params: [], rows: "array" }
    )
    // It may have ended meanwhile.
    return Effect.flatMap(asked, () => (isOver(level) ? ended(place) : Effect.void))
  })
