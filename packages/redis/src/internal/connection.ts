/**
 * A connection that is kept: looked for when it is first wanted and whenever it is lost, with the commands that wait for
 * it. Nothing that was sent is ever sent again.
 */
import * as Either from "effect/Either"
import { RedisError } from "../RedisError.ts"
import * as Attempt from "./attempt.ts"
import { type Call, type Core, failure, notSent, type TakeBack } from "./call.ts"
import * as Deadlines from "./deadlines.ts"
import type { ConnectionState } from "./model.ts"
import * as Wire from "./wire.ts"

export interface Connection {
  readonly state: () => ConnectionState
  /** Why there is no connection, as far as it is known. */
  readonly problem: () => RedisError | undefined
  readonly connect: () => void
  /** Begins a call. What is given back takes it back while it waits. */
  readonly submit: (call: Call) => TakeBack
  /** What is submitted between the two goes out in one piece. */
  readonly cork: () => void
  readonly uncork: () => void
  /**
   * Looks whether the server is elsewhere by now, and changes over to it; what is under way stays where it is. Not more
   * often than twice a second, unless it is known that there is something to find.
   */
  readonly refresh: (known?: boolean) => void
  /** Gives the connection up and looks for another. */
  readonly drop: () => void
  /** The server that is or was connected to last, as `host:port`. */
  readonly id: () => string | undefined
  readonly close: () => void
}

export interface ConnectionOptions extends Attempt.AttemptOptions {
  readonly onState: (state: ConnectionState) => void
}

/** When an attempt has not come to an end after so long, another is made beside it, in milliseconds. */
const patience = 500

/** How often it is looked for one that is not ready. */
const mostLooks = 20

const gone = "the server is none of the Cluster's any more"

/** The shortest time between two looks for a server elsewhere, in milliseconds. */
const refreshPause = 500

export const make = (core: Core, options: ConnectionOptions): Connection => {
  const { counts } = core
  let state: ConnectionState = "idle"
  let wire: Wire.Wire | undefined
  let problem: RedisError | undefined
  /** The first is patient, the others are given up for the next. */
  const attempts: Array<() => void> = []
  /** Connections that were changed for others and still have commands under way. */
  const retired = new Set<Wire.Wire>()
  let failures = 0
  let hadOne = false
  let looks = 0
  let id: string | undefined
  let next: ReturnType<typeof setTimeout> | undefined
  let refreshed = Number.NEGATIVE_INFINITY
  /** Whether it was said that the server is elsewhere while it was looked for: what is found may be the old one. */
  let outdated = false

  const become = (to: ConnectionState): void => {
    if (state === to) return
    state = to
    options.onState(to)
  }

  const away = (method: string): Either.Either<never, RedisError> => {
    counts.notSent++
    const code = problem?.code
    const cause = problem?.cause
    return Either.left(
      failure({
        reason: problem === undefined || problem.reason === "Timeout" ? "Unavailable" : problem.reason,
        outcome: "not-sent",
        method,
        description: problem?.description ?? "there is no connection to the server",
        ...(code === undefined ? {} : { code }),
        ...(cause === undefined ? {} : { cause })
      })
    )
  }

  const overloaded = (method: string) =>
    notSent(counts, "Overloaded", method, `${core.maxInFlight} commands are under way already`)

  const waiting = Deadlines.make((due) => {
    // who waited so long in vain knows that it is away: those who come now need not find that out again
    if (state === "connecting" && core.answerAtOnce) become("away")
    for (const call of due) {
      counts.waiting--
      counts.timedOut++
      call.settle(
        Either.left(
          failure({
            reason: "Timeout",
            outcome: "not-sent",
            method: call.method,
            description: "no connection to the server within the command timeout"
          })
        )
      )
    }
  })

  const takeWaiting = (): ReadonlyArray<Call> => {
    const all = waiting.clear()
    counts.waiting -= all.length
    return all
  }

  const later = (delay: number): void => {
    clearTimeout(next)
    next = setTimeout(attempt, delay)
  }

  const attempt = (): void => {
    if (state === "closed") return
    // the one that began first is left alone until its time is over; of the others there is one at a time
    if (attempts.length > 1) attempts.pop()?.()
    let cancel: (() => void) | undefined
    let over = false
    if (wire === undefined) later(patience)
    cancel = Attempt.begin(core, options, (result) => {
      over = true
      const index = cancel === undefined ? -1 : attempts.indexOf(cancel)
      if (index >= 0) attempts.splice(index, 1)
      if (Either.isRight(result)) ready(result.right)
      else failed(result.left)
    })
    if (!over) attempts.push(cancel)
  }

  const stopAttempts = (): void => {
    clearTimeout(next)
    for (const cancel of attempts.splice(0)) cancel()
  }

  const failed = (error: RedisError): void => {
    // it was only to be looked whether the server is elsewhere: the new one may not be ready yet
    if (wire !== undefined) {
      if (looks-- > 0) later(core.reconnectDelay)
      return
    }
    problem = error
    failures++
    become("away")
    if (core.answerAtOnce) for (const call of takeWaiting()) call.settle(away(call.method))
    later(Math.min(25 * failures, core.reconnectDelay))
  }

  const ready = (opened: Attempt.Opened): void => {
    stopAttempts()
    const before = wire
    id = `${opened.target.host}:${opened.target.port}`
    const current = Wire.make(core, opened.link, {
      onFrozen: (error) => lost(current, error),
      onRefused: (code) => {
        if (code === "READONLY") refresh()
      }
    })
    opened.onClosed = (cause) => {
      current.close("Unavailable", "the connection was lost before the answer came")
      lost(current, RedisError.fromUnknown("connect", cause, false))
    }
    wire = current
    if (before !== undefined) {
      for (const one of retired) if (one.size() === 0) retired.delete(one)
      retired.add(before)
      before.retire()
    }
    if (outdated) {
      outdated = false
      looks = mostLooks
      later(0)
    }
    problem = undefined
    failures = 0
    counts.connects++
    if (hadOne && before === undefined) counts.reconnects++
    hadOne = true
    become("ready")
    const all = takeWaiting()
    if (all.length === 0) return
    current.cork()
    for (const call of all) current.write(call)
    current.uncork()
  }

  const lost = (which: Wire.Wire, error: RedisError): void => {
    if (wire !== which || state === "closed") return
    wire = undefined
    counts.disconnects++
    problem = error
    become("away")
    later(0)
  }

  const refresh = (known = false): void => {
    const now = performance.now()
    if (known && attempts.length > 0) outdated = true
    if (wire === undefined || attempts.length > 0 || (!known && now - refreshed < refreshPause)) return
    refreshed = now
    looks = mostLooks
    attempt()
  }

  return {
    state: () => state,
    problem: () => problem,
    connect: () => {
      if (state !== "idle") return
      become("connecting")
      attempt()
    },
    submit: (call) => {
      if (wire !== undefined) {
        if (counts.unanswered >= core.maxInFlight) call.settle(overloaded(call.method))
        else if (wire.buffered() > core.maxBuffered) {
          call.settle(notSent(counts, "Overloaded", call.method, "too many bytes wait to be sent already"))
        } else wire.write(call)
        return undefined
      }
      if (state === "closed") {
        call.settle(notSent(counts, "Closed", call.method, "the client is released"))
        return undefined
      }
      if (state === "away" && core.answerAtOnce) {
        call.settle(away(call.method))
        return undefined
      }
      if (counts.unanswered + counts.waiting >= core.maxInFlight) {
        call.settle(overloaded(call.method))
        return undefined
      }
      counts.waiting++
      waiting.add(call)
      if (state === "idle") {
        become("connecting")
        attempt()
      }
      return () => {
        if (!waiting.delete(call)) return
        counts.waiting--
        counts.notSent++
      }
    },
    cork: () => wire?.cork(),
    uncork: () => wire?.uncork(),
    refresh,
    drop: () => {
      const current = wire
      if (current === undefined) return
      current.close("Unavailable", "the connection was given up")
      lost(current, failure({ reason: "Unavailable", outcome: "not-sent", method: "connect", description: gone }))
    },
    id: () => id,
    close: () => {
      if (state === "closed") return
      stopAttempts()
      become("closed")
      for (const call of takeWaiting()) {
        call.settle(notSent(counts, "Closed", call.method, "the client is released"))
      }
      for (const one of retired) one.close("Closed", "the client was released before the answer came")
      retired.clear()
      wire?.close("Closed", "the client was released before the answer came")
      wire = undefined
    }
  }
}
