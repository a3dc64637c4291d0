/**
 * A command under way, and what all parts of one client share.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { RedisError } from "../RedisError.ts"
import type { Argument, Open } from "./driver.ts"

/** One command as it goes out. */
export interface Part {
  readonly name: string
  readonly args: ReadonlyArray<Argument>
}

/** What was answered to one part: the driver's error or the reply. */
export interface Answer {
  readonly problem: unknown
  readonly reply: unknown
}

export type Settle = (result: Either.Either<unknown, RedisError>) => void

/** The `resume` of an `Effect.async`, which settles too: an Either is an effect. */
export type Resume = (result: Effect.Effect<unknown, RedisError>) => void

/** Takes a call back while it is not sent. None where there is nothing to take back: what is sent is sent. */
export type TakeBack = (() => void) | undefined

/**
 * A command under way, or several that belong together and go out in one piece. It is settled once: by its answer, its
 * deadline, the loss of its connection or the release of the client.
 */
export interface Call {
  /** What stands in errors. */
  readonly method: string
  readonly part: Part
  /** Several commands as one: `settle` gets the list of their answers, whatever they are. */
  readonly burst: ReadonlyArray<Part> | undefined
  readonly binary: boolean
  /** When it fails, by `performance.now()`. */
  readonly deadline: number
  /** Who waits can change: ask the call itself for it, and do not keep it. */
  settle: Settle
  /** Hears a refusal before it is made an error, and says whether it takes care of it. */
  readonly refused: ((message: string) => boolean) | undefined
  /** What had arrived on the connection when it was sent. */
  received: number
  /**
   * Goes on with a call that the server has refused and not done: sends it elsewhere, or in another form. Nothing is sent
   * where its caller was interrupted meanwhile: it may have gone on to other commands.
   */
  readonly again: (go: () => TakeBack) => void
}

/**
 * A call that a fiber of its own waits for. It needs no way back for an interruption, which would cost every caller some
 * microseconds: what is to be done again is done by the fiber that waits, so there is nothing where nobody does.
 */
export class Single implements Call {
  readonly method: string
  readonly part: Part
  readonly burst: ReadonlyArray<Part> | undefined
  readonly binary: boolean
  readonly deadline: number
  settle: Resume
  readonly refused: ((message: string) => boolean) | undefined
  received = 0

  constructor(
    method: string,
    part: Part,
    burst: ReadonlyArray<Part> | undefined,
    binary: boolean,
    deadline: number,
    resume: Resume,
    refused?: (message: string) => boolean
  ) {
    this.method = method
    this.part = part
    this.burst = burst
    this.binary = binary
    this.deadline = deadline
    this.settle = resume
    this.refused = refused
  }

  again(go: () => TakeBack): void {
    this.settle(
      Effect.async<unknown, RedisError>((resume) => {
        this.settle = resume
        const takeBack = go()
        return takeBack === undefined ? undefined : Effect.sync(takeBack)
      })
    )
  }
}

/** One call among several that a fiber waits for together, or one that no fiber waits for: it is taken back by hand. */
export class Among implements Call {
  readonly method: string
  readonly part: Part
  readonly burst = undefined
  readonly binary: boolean
  readonly deadline: number
  settle: Settle
  readonly refused: ((message: string) => boolean) | undefined
  received = 0
  #abandoned = false
  #takeBack: TakeBack = undefined

  constructor(
    method: string,
    part: Part,
    binary: boolean,
    deadline: number,
    settle: Settle,
    refused?: (message: string) => boolean
  ) {
    this.method = method
    this.part = part
    this.binary = binary
    this.deadline = deadline
    this.settle = settle
    this.refused = refused
  }

  again(go: () => TakeBack): void {
    if (!this.#abandoned) this.#takeBack = go()
  }

  takeBack(): void {
    this.#abandoned = true
    this.#takeBack?.()
  }
}

/** Plain counters, changed in place. */
export interface Counts {
  /** Commands that are sent and not settled. */
  inFlight: number
  /** Answers that are still to come, those of settled commands included: they occupy the connection. */
  unanswered: number
  waiting: number
  sent: number
  answered: number
  refused: number
  timedOut: number
  lost: number
  notSent: number
  redirected: number
  attempts: number
  connects: number
  disconnects: number
  reconnects: number
}

/** What all connections of one client have in common. */
export interface Core {
  readonly open: Open
  readonly counts: Counts
  readonly commandTimeout: number
  readonly connectTimeout: number
  readonly reconnectDelay: number
  readonly maxInFlight: number
  readonly maxBuffered: number
  readonly answerAtOnce: boolean
  readonly autoPipelining: boolean
}

/**
 * A failure that this client makes by the thousand when a server goes away: without a stack, which would only show the
 * timer or the socket, and without checking what we write ourselves.
 */
export const failure = (fields: ConstructorParameters<typeof RedisError>[0]): RedisError => {
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 0
  const error = new RedisError(fields, { disableValidation: true })
  Error.stackTraceLimit = limit
  return error
}

export const notSent = (
  counts: Counts,
  reason: RedisError["reason"],
  method: string,
  description: string
): Either.Either<never, RedisError> => {
  counts.notSent++
  return Either.left(failure({ reason, outcome: "not-sent", method, description }))
}
