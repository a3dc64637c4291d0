/**
 * Connections for one user at a time, lent from a pool: at most so many at once, given back when the scope closes, kept
 * for a while when idle.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import type { RedisError } from "../RedisError.ts"
import * as Attempt from "./attempt.ts"
import { type Call, type Core, failure, notSent } from "./call.ts"
import * as Commands from "./commands.ts"
import type * as Model from "./model.ts"
import * as Operations from "./operations.ts"
import * as Wire from "./wire.ts"

export interface Pool {
  readonly lend: (where: Where) => Effect.Effect<Model.Isolated, RedisError, Scope.Scope>
  readonly size: () => { readonly total: number; readonly idle: number }
  readonly close: () => void
}

/** Which server a connection is to. */
export interface Where {
  readonly id: string
  readonly attempt: Attempt.AttemptOptions
  /** Hears that the server refused a command with this code. */
  readonly onRefused: (code: string | undefined) => void
}

/** A connection of the pool. */
interface Member {
  readonly id: string
  readonly wire: Wire.Wire
  lost: boolean
  clean: boolean
  timer: ReturnType<typeof setTimeout> | undefined
}

interface Waiter {
  readonly begin: () => void
}

export const make = (core: Core, options: { readonly maxConnections: number; readonly idle: number }): Pool => {
  const members = new Set<Member>()
  const idle: Array<Member> = []
  const waiters = new Set<Waiter>()
  const attempts = new Set<{ readonly end: () => void }>()
  let closed = false

  const evict = (member: Member, reason: "Unavailable" | "Closed"): void => {
    clearTimeout(member.timer)
    const at = idle.indexOf(member)
    if (at >= 0) idle.splice(at, 1)
    if (!members.delete(member)) return
    member.lost = true
    member.wire.close(reason, "the connection was given up before the answer came")
  }

  const drop = (member: Member): void => {
    evict(member, "Unavailable")
    next()
  }

  /** A place is free: whoever waits longest may begin. */
  const next = (): void => {
    for (const waiter of waiters) {
      if (idle.length === 0 && members.size + attempts.size >= options.maxConnections) return
      waiters.delete(waiter)
      waiter.begin()
    }
  }

  const giveBack = (member: Member): void => {
    // an answer that is still to come may be that of a command which holds the connection up
    if (closed || member.lost || !member.clean || member.wire.unanswered() > 0) {
      drop(member)
      return
    }
    member.timer = setTimeout(() => drop(member), options.idle)
    idle.push(member)
    next()
  }

  /** Calls back with a connection, or with why there is none; gives back what cancels it. */
  const take = (where: Where, done: (result: Either.Either<Member, RedisError>) => void): (() => void) => {
    let cancelAttempt = (): void => {}
    let over = false
    const finish = (result: Either.Either<Member, RedisError>): void => {
      over = true
      clearTimeout(timer)
      done(result)
    }
    const begin = (): void => {
      if (closed) {
        finish(notSent(core.counts, "Closed", "isolated", "the client is released"))
        return
      }
      const at = idle.findLastIndex((member) => member.id === where.id)
      const found = idle[at]
      if (found !== undefined) {
        idle.splice(at, 1)
        clearTimeout(found.timer)
        finish(Either.right(found))
        return
      }
      // an idle connection to another server makes way
      const oldest = idle[0]
      if (members.size + attempts.size >= options.maxConnections && oldest !== undefined) evict(oldest, "Unavailable")
      const entry = { end: (): void => {} }
      attempts.add(entry)
      const cancel = Attempt.begin(core, where.attempt, (result) => {
        attempts.delete(entry)
        if (Either.isLeft(result)) {
          finish(Either.left(result.left))
          next()
          return
        }
        const opened = result.right
        const member: Member = {
          // where it is in truth: nothing may have been known yet when it was asked for
          id: `${opened.target.host}:${opened.target.port}`,
          wire: Wire.make(core, opened.link, { onFrozen: () => drop(member), onRefused: where.onRefused }),
          lost: false,
          clean: true,
          timer: undefined
        }
        opened.onClosed = () => drop(member)
        members.add(member)
        finish(Either.right(member))
      })
      entry.end = () => {
        cancel()
        finish(notSent(core.counts, "Closed", "isolated", "the client is released"))
      }
      cancelAttempt = () => {
        if (!attempts.delete(entry)) return
        cancel()
        next()
      }
    }
    const waiter: Waiter = { begin }
    const timer = setTimeout(() => {
      if (!waiters.delete(waiter)) return
      finish(
        notSent(
          core.counts,
          "Overloaded",
          "isolated",
          `${options.maxConnections} isolated connections are in use already`
        )
      )
    }, core.connectTimeout)
    if (!closed && idle.length === 0 && members.size + attempts.size >= options.maxConnections) waiters.add(waiter)
    else begin()
    return () => {
      if (over) return
      over = true
      clearTimeout(timer)
      if (!waiters.delete(waiter)) cancelAttempt()
    }
  }

  const isolated = (member: Member, isOver: () => boolean): Model.Isolated => {
    const { counts } = core
    const submit = (call: Call): undefined => {
      if (isOver()) {
        call.settle(notSent(counts, "Closed", call.method, "the isolated connection was given back with its scope"))
        return undefined
      }
      if (member.lost) {
        const reason = closed ? "Closed" : "Unavailable"
        call.settle(notSent(counts, reason, call.method, "the isolated connection was lost: take another"))
        return undefined
      }
      if (counts.unanswered >= core.maxInFlight || member.wire.buffered() > core.maxBuffered) {
        call.settle(notSent(counts, "Overloaded", call.method, "too much is under way on isolated connections already"))
        return undefined
      }
      if (call.burst === undefined && Commands.leavesTraces(call.part.name)) member.clean = false
      member.wire.write(call)
      return undefined
    }
    const { block, run, send, sendMany, transaction } = Operations.make(core, {
      submit,
      cork: () => member.wire.cork(),
      uncork: () => member.wire.uncork(),
      place: "isolated"
    })
    return { send, sendMany, run, block, transaction }
  }

  return {
    lend: (where) =>
      Effect.suspend(() => {
        // known to the finalizer before it is known to the caller: an interruption in between loses nothing
        let lent: Member | undefined
        let over = false
        let cancel = (): void => {}
        return Effect.zipRight(
          Effect.addFinalizer(() =>
            Effect.sync(() => {
              over = true
              cancel()
              if (lent !== undefined) giveBack(lent)
            })
          ),
          Effect.async<Model.Isolated, RedisError>((resume) => {
            cancel = take(where, (result) => {
              if (Either.isRight(result)) {
                lent = result.right
                resume(Effect.succeed(isolated(lent, () => over)))
              } else resume(Either.left(result.left))
            })
            return Effect.sync(cancel)
          })
        )
      }),
    size: () => ({ total: members.size, idle: idle.length }),
    close: () => {
      closed = true
      const making = [...attempts]
      attempts.clear()
      for (const { end } of making) end()
      for (const member of members) evict(member, "Closed")
      const all = [...waiters]
      waiters.clear()
      for (const waiter of all) waiter.begin()
    }
  }
}

/** Why there is no connection where none is looked for. */
export const unavailable = (problem: RedisError | undefined): RedisError =>
  failure({
    reason: problem === undefined || problem.reason === "Timeout" ? "Unavailable" : problem.reason,
    outcome: "not-sent",
    method: "isolated",
    description: problem?.description ?? "there is no connection to the server"
  })
