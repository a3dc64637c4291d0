/**
 * What the `SqlClient` needs of a backend: sessions that run one statement after another and say when each is over.
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import type * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Scope from "effect/Scope"

export interface Result {
  readonly rows: ReadonlyArray<unknown>
  /** The command as the server names it when it is done: `SELECT`, `COMMIT`, `ROLLBACK`. */
  readonly command: string | undefined
  readonly raw: unknown
}

export type Params = ReadonlyArray<string | null>

export interface Request {
  readonly sql: string
  readonly params: Params
  readonly rows: "object" | "array"
  /** Sent before it and together with it: the BEGIN of its transaction. */
  readonly begin?: string | undefined
  /** It belongs to a transaction: where the server is in none, which only it can tell, it is not sent. */
  readonly within?: boolean | undefined
  /** How many characters are before what the caller wrote: where an error is counts from there. */
  readonly lead?: number | undefined
  /** In milliseconds. When it is over the statement is cancelled, and fails with `Timeout`. */
  readonly timeout?: number | undefined
  /** It must not be cancelled, so that after its timeout the connection is cut. */
  readonly final?: boolean | undefined
}

/** What is told where a statement belongs to a transaction that there is not. */
export const outside = (at: { readonly kind: string; readonly name: string }, method: string): ConnectionError =>
  new ConnectionError({
    reason: "InvalidRequest",
    kind: at.kind,
    connection: at.name,
    method,
    code: "25P02",
    sent: false,
    description: "an earlier statement of this transaction failed, or ended it, so this one was not run"
  })

export type Outcome = Result | ConnectionError

/** The next rows; none when there are no more. */
export type Pull<A = unknown> = Effect.Effect<Chunk.Chunk<A>, Option.Option<ConnectionError>>

/** One backend, lent to one user at a time. */
export interface Session {
  /**
   * Runs a statement, after those that were submitted before it, and tells its outcome once. What it gives back takes the
   * statement back: one that waits is never sent, one that runs is cancelled and the session is marked; nothing is told
   * then. Nobody has to wait: what is submitted next waits until the session is fit for it.
   */
  readonly submit: (request: Request, done: (outcome: Outcome) => void) => () => void
  /** False where a statement that runs cannot be cancelled, so that its user has to wait for it. */
  readonly cancellable: boolean
  /** Streams the rows of a statement with back-pressure, if the backend can. */
  readonly stream: ((request: Request) => Effect.Effect<Pull, ConnectionError, Scope.Scope>) | undefined
  /** Whether a statement was cancelled or the connection is gone, so that it will not be lent again. */
  readonly isMarked: () => boolean
  readonly mark: () => void
  /** Whether anything that is submitted now can reach the server. */
  readonly isAlive: () => boolean
}

/**
 * Waits for what is told once, maybe at once. `ask` is called where nothing interrupts, and gives what takes the question
 * back, for when the one who waits is interrupted before. What is told is held no longer than until it is passed on: what
 * such closures hold lives into the old generation, and a thousand rows that get there cost as much as to read them.
 */
export const told = <A, E>(ask: (tell: (outcome: Effect.Effect<A, E>) => void) => () => void): Effect.Effect<A, E> =>
  Effect.uninterruptibleMask((restore) => {
    let early: Effect.Effect<A, E> | undefined
    let listener: ((outcome: Effect.Effect<A, E>) => void) | undefined
    let over = false
    const withdraw = ask((outcome) => {
      over = true
      if (listener === undefined) early = outcome
      else listener(outcome)
    })
    if (early !== undefined) return restore(early)
    return Effect.matchCauseEffect(
      restore(
        Effect.async<A, E>((resume) => {
          if (early === undefined) listener = resume
          else resume(early)
        })
      ),
      {
        onSuccess: Effect.succeed,
        onFailure: (cause) => {
          if (!over) withdraw()
          return Effect.failCause(cause)
        }
      }
    )
  })

/** Runs a statement. When it is interrupted it does not wait, where the backend can cancel. */
export const run = (session: Session, request: Request): Effect.Effect<Result, ConnectionError> => {
  const asked = told<Result, ConnectionError>((tell) =>
    session.submit(request, (outcome) => tell(outcome instanceof ConnectionError ? outcome : Effect.succeed(outcome)))
  )
  return session.cancellable ? asked : Effect.uninterruptible(asked)
}
