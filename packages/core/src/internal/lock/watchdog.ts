/**
 * Keeps held locks alive and knows at once when one is lost: one timer for all of them, which runs only while there are
 * some.
 */
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Fiber from "effect/Fiber"
import type { Backend, LockError, Request } from "./model.ts"

export type State = "asked" | "held" | "lost" | "ended"

/** One asking, and the lock once it is had. Times are in milliseconds of the monotonic clock. */
export interface Hold extends Request {
  token: bigint
  state: State
  /** When was sent what it was had or renewed by. */
  since: number
  /** From here on the store may have given it to another. */
  deadline: number
  renewAt: number
  checkAt: number
  /** A renewal or a check of it is under way. */
  isBusy: boolean
  /** What it guards hears first of its loss. */
  listener: (() => void) | undefined
  listeners: Set<() => void> | undefined
}

export interface Watchdog {
  /** The lock was granted to what was sent at `sentAt`. False when that is so long ago that it may be over. */
  readonly grant: (hold: Hold, token: bigint, sentAt: number) => boolean
  /** Calls back once when the lock is lost, at once if it is. The result forgets the callback. */
  readonly onLost: (hold: Hold, callback: () => void) => () => void
  readonly isHeld: (hold: Hold) => boolean
  /** Ends a hold: no renewal is sent any more. Whether it was held until now; undefined where it had ended before. */
  readonly end: (hold: Hold) => boolean | undefined
  /** All that is held is lost. */
  readonly close: () => void
}

/** What the holder's clock and the store's may differ in, over a time to live: 1 % and 2 milliseconds, as in Redlock. */
const drift = (ttl: number): number => ttl * 0.01 + 2

/** Whether the lock cannot be over at that time. A clock that went back, although none should, says nothing any more. */
const covers = (hold: Hold, time: number): boolean => time < hold.deadline && time >= hold.since

export const make = (options: {
  readonly backend: Pick<Backend, "renew" | "check">
  readonly clock: Clock.Clock
  readonly now: () => number
  readonly run: (effect: Effect.Effect<void>) => Fiber.RuntimeFiber<void>
  readonly every: number
}): Watchdog => {
  const { backend, clock, every, now, run } = options
  // plain mutable state: every lock passes here twice
  const holds = new Set<Hold>()
  let round = 0
  let wakesAt = Number.POSITIVE_INFINITY
  let isClosed = false

  const lose = (hold: Hold): void => {
    holds.delete(hold)
    if (hold.state !== "held") return
    hold.state = "lost"
    const { listener, listeners } = hold
    hold.listener = undefined
    hold.listeners = undefined
    listener?.()
    if (listeners !== undefined) for (const listener of listeners) listener()
  }

  const believe = (hold: Hold, sentAt: number): void => {
    hold.since = sentAt
    hold.deadline = sentAt + hold.ttl - drift(hold.ttl)
    hold.renewAt = sentAt + hold.ttl / 3
    hold.checkAt = sentAt + every
  }

  const dueAt = (hold: Hold): number =>
    hold.isBusy ? hold.deadline : Math.min(hold.deadline, hold.renewAt, hold.checkAt)

  /** Sees to it that the timer does not sleep for longer than until then. */
  const wakeBy = (time: number): void => {
    if (time >= wakesAt) return
    wakesAt = time
    round++
    run(sleeping(round))
  }

  const sleeping = (mine: number): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (mine !== round) return Effect.void
      return Effect.flatMap(clock.sleep(Duration.millis(Math.max(0, Math.ceil(wakesAt - now())))), () => {
        if (mine !== round) return Effect.void
        look()
        wakesAt = Number.POSITIVE_INFINITY
        for (const hold of holds) wakesAt = Math.min(wakesAt, dueAt(hold))
        return wakesAt === Number.POSITIVE_INFINITY ? Effect.void : sleeping(mine)
      })
    })

  const look = (): void => {
    const time = now()
    const renewals: Array<Hold> = []
    const checks: Array<Hold> = []
    for (const hold of holds) {
      if (!covers(hold, time)) lose(hold)
      else if (hold.isBusy) continue
      else if (time >= hold.renewAt) renewals.push(hold)
      else if (time >= hold.checkAt) checks.push(hold)
    }
    if (renewals.length > 0) run(renew(renewals, time))
    if (checks.length > 0) run(check(checks))
  }

  /** Asks the store about several locks and hears each one's answer, unless it has ended meanwhile. */
  const ask = (
    asked: ReadonlyArray<Hold>,
    question: Backend["renew"],
    hear: (hold: Hold, answer: Either.Either<boolean, LockError> | undefined) => void
  ): Effect.Effect<void> => {
    for (const hold of asked) hold.isBusy = true
    return Effect.map(question(asked), (answers) => {
      asked.forEach((hold, index) => {
        hold.isBusy = false
        if (hold.state !== "held") return
        const answer = answers[index]
        // what comes after the deadline comes too late, whatever it says
        if (!covers(hold, now()) || (answer !== undefined && Either.isRight(answer) && !answer.right)) lose(hold)
        else hear(hold, answer)
        if (hold.state === "held") wakeBy(dueAt(hold))
      })
    })
  }

  const renew = (asked: ReadonlyArray<Hold>, sentAt: number): Effect.Effect<void> =>
    ask(asked, backend.renew, (hold, answer) => {
      if (answer !== undefined && Either.isRight(answer)) believe(hold, sentAt)
      // not heard: again soon, and often before the deadline
      else hold.renewAt = now() + Math.min(hold.ttl / 20, 250)
    })

  const check = (asked: ReadonlyArray<Hold>): Effect.Effect<void> =>
    ask(asked, backend.check, (hold) => {
      hold.checkAt = now() + every
    })

  return {
    grant: (hold, token, sentAt) => {
      believe(hold, sentAt)
      if (isClosed || !covers(hold, now())) return false
      hold.token = token
      hold.state = "held"
      holds.add(hold)
      wakeBy(dueAt(hold))
      return true
    },
    onLost: (hold, callback) => {
      if (hold.state === "lost") {
        callback()
        return () => {}
      }
      hold.listeners ??= new Set()
      hold.listeners.add(callback)
      return () => {
        hold.listeners?.delete(callback)
      }
    },
    isHeld: (hold) => hold.state === "held" && covers(hold, now()),
    end: (hold) => {
      if (hold.state === "ended") return undefined
      const held = hold.state === "held" && covers(hold, now())
      hold.state = "ended"
      holds.delete(hold)
      return held
    },
    close: () => {
      isClosed = true
      round++
      for (const hold of holds) lose(hold)
    }
  }
}
