/**
 * One connection that is ready, with the commands under way on it. What is under way when it ends has an unknown outcome.
 */
import * as Either from "effect/Either"
import { RedisError } from "../RedisError.ts"
import { type Answer, type Call, type Core, failure, type Part } from "./call.ts"
import * as Deadlines from "./deadlines.ts"
import type { Link } from "./driver.ts"

export interface Wire {
  readonly write: (call: Call) => void
  /** Calls that are not settled. */
  readonly size: () => number
  /** Answers that are still to come, those of calls whose time is over included. */
  readonly unanswered: () => number
  readonly cork: () => void
  readonly uncork: () => void
  readonly buffered: () => number
  /** Ends the connection; what is under way fails with this. */
  readonly close: (reason: "Unavailable" | "Closed", description: string) => void
  /** Takes nothing more and ends the connection when what is under way is settled. */
  readonly retire: () => void
}

export interface WireEvents {
  /** Nothing has come for as long as a command may take: the connection is as good as lost, and has been ended. */
  readonly onFrozen: (problem: RedisError) => void
  /** The server refused a command with this code. */
  readonly onRefused: (code: string | undefined) => void
}

export const make = (core: Core, link: Link, events: WireEvents): Wire => {
  const { counts } = core
  let closed = false
  let retired = false
  let unanswered = 0
  let corked = false

  const expire = (due: ReadonlyArray<Call>): void => {
    const received = link.received()
    let frozen = false
    for (const call of due) {
      counts.inFlight--
      counts.timedOut++
      if (call.received === received) frozen = true
      call.settle(
        Either.left(
          failure({
            reason: "Timeout",
            outcome: "unknown",
            method: call.method,
            description: "no answer within the command timeout"
          })
        )
      )
    }
    // nothing at all has come since: what would be sent on this connection would only pile up
    if (frozen && !closed) {
      close("Unavailable", "the connection was given up: the server does not answer")
      events.onFrozen(
        failure({
          reason: "Timeout",
          outcome: "not-sent",
          method: "connect",
          description: "the server does not answer"
        })
      )
    } else leave()
  }
  const pending = Deadlines.make(expire)

  const leave = (): void => {
    if (retired && !closed && pending.size() === 0) close("Unavailable", "the connection was replaced")
  }

  const close = (reason: "Unavailable" | "Closed", description: string): void => {
    if (closed) return
    closed = true
    counts.unanswered -= unanswered
    unanswered = 0
    link.close()
    for (const call of pending.clear()) {
      counts.inFlight--
      counts.lost++
      call.settle(Either.left(failure({ reason, outcome: "unknown", method: call.method, description })))
    }
  }

  const refuse = (call: Call, problem: unknown): void => {
    if (!isReplyError(problem)) {
      counts.lost++
      call.settle(Either.left(RedisError.fromUnknown(call.method, problem, true)))
      return
    }
    if (call.refused?.(problem.message) === true) return
    counts.refused++
    const error = RedisError.fromUnknown(call.method, problem, true)
    call.settle(Either.left(error))
    events.onRefused(error.code)
  }

  const sendOne = (call: Call): void => {
    unanswered++
    counts.unanswered++
    link.send(call.part.name, call.part.args, call.binary, (problem, reply) => {
      if (closed) return
      unanswered--
      counts.unanswered--
      // it was settled when its time was over
      if (!pending.delete(call)) return
      counts.inFlight--
      if (problem === undefined) {
        counts.answered++
        call.settle(Either.right(reply))
      } else refuse(call, problem)
      if (retired) leave()
    })
  }

  const sendBurst = (call: Call, parts: ReadonlyArray<Part>): void => {
    const answers: Array<Answer> = new Array(parts.length)
    let left = parts.length
    let sending = true
    /** What cannot be written: what comes after it would be done without it. */
    let unwritable: Answer | undefined
    const send = ({ args, name }: Part, done: (answer: Answer) => void): void => {
      unanswered++
      counts.unanswered++
      link.send(name, args, call.binary, (problem, reply) => {
        if (closed) return
        unanswered--
        counts.unanswered--
        if (sending && problem !== undefined) unwritable ??= { problem, reply }
        done({ problem, reply })
      })
    }
    hold()
    for (const [index, part] of parts.entries()) {
      send(part, (answer) => {
        left--
        answers[index] = answer
        if (left > 0 || !pending.delete(call)) return
        counts.inFlight--
        counts.answered++
        call.settle(Either.right(answers))
        if (retired) leave()
      })
      if (unwritable !== undefined) break
    }
    sending = false
    if (unwritable !== undefined) {
      if (parts.some(({ name }) => name === "MULTI")) send({ name: "DISCARD", args: [] }, () => {})
      if (pending.delete(call)) {
        counts.inFlight--
        counts.notSent++
        call.settle(Either.left(RedisError.fromUnknown(call.method, unwritable.problem, false)))
      }
    }
    release()
  }

  let holds = 0
  const hold = (): void => {
    if (holds++ === 0) link.cork()
  }
  const release = (): void => {
    if (--holds === 0) link.uncork()
  }

  /**
   * What is sent before this process waits again goes out in one piece: where many answers come at once, so do the next
   * commands of those who got them, and one system call is worth more than all the rest that a command costs. Nobody
   * waits for it, for nobody could get an answer meanwhile. With `autoPipelining` it is a whole turn of the event loop.
   */
  const gather = (): void => {
    if (corked) return
    corked = true
    hold()
    if (core.autoPipelining) setImmediate(ungather)
    else queueMicrotask(afterMicrotasks)
  }
  const ungather = (): void => {
    corked = false
    release()
  }
  // a tick that is asked for within a microtask comes when all of them are done
  const afterMicrotasks = (): void => process.nextTick(ungather)

  return {
    write: (call) => {
      call.received = link.received()
      counts.sent++
      counts.inFlight++
      pending.add(call)
      gather()
      if (call.burst === undefined) sendOne(call)
      else sendBurst(call, call.burst)
    },
    size: pending.size,
    unanswered: () => unanswered,
    cork: hold,
    uncork: release,
    buffered: link.buffered,
    close,
    retire: () => {
      retired = true
      leave()
    }
  }
}

const isReplyError = (problem: unknown): problem is Error => problem instanceof Error && problem.name === "ReplyError"
