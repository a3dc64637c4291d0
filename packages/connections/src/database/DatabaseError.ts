/**
 * The error of a failed statement: an `SqlError` of `@effect/sql`, so that `catchTag("SqlError", ...)` catches it, that
 * knows its reason and PostgreSQL's code.
 *
 * @since 0.1.0
 */
import { SqlError } from "@effect/sql/SqlError"
import type { ConnectionError, ConnectionErrorReason } from "@underlay/core/connection/Connection"
import type * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"

/**
 * A statement, a transaction or a connection failed. `cause` is the `ConnectionError`, whose own cause is what the
 * driver threw.
 *
 * @since 0.1.0
 * @category errors
 */
export class DatabaseError extends SqlError {
  declare readonly cause: ConnectionError
  /**
   * Whether it is not known if a COMMIT took place: the connection was lost, or no answer came in time, while it ran.
   * Such a transaction is not to be run again before somebody has looked.
   */
  readonly outcomeUnknown: boolean

  constructor(failure: ConnectionError, options: { readonly outcomeUnknown?: boolean } = {}) {
    super({ cause: failure, message: failure.message })
    this.outcomeUnknown = options.outcomeUnknown === true
  }

  /** What the driver threw, with its words: to be looked at, and not to be logged. */
  get original(): unknown {
    return this.cause.original
  }

  get reason(): ConnectionErrorReason {
    return this.cause.reason
  }

  /** PostgreSQL's five-letter code (SQLSTATE) or Node's error code, where there is one. */
  get code(): string | undefined {
    return this.cause.code
  }

  /** Where in the statement the error is, as the server says: the number of the character, from 1. */
  get position(): number | undefined {
    return numberOf(serverField(this.cause.cause, "position"))
  }

  /** Of COPY: the line of the data at which it failed, from 1. */
  get line(): number | undefined {
    // "COPY notes, line 3, column n: ..."; what follows may be a value and is not for showing.
    return numberOf(/^COPY .+?, line (\d+)/.exec(serverField(this.cause.cause, "where") ?? "")?.[1])
  }

  /** Whether the same request may succeed later. What a statement did before it failed is for the caller to know. */
  get isRetryable(): boolean {
    return !this.outcomeUnknown && this.cause.isRetryable
  }

  /** How `@underlay/core` treats it. */
  get errorClass(): "transient" | "rate-limited" | "permanent" {
    if (!this.isRetryable) return "permanent"
    return this.rejection && this.reason === "Throttled" ? "rate-limited" : "transient"
  }

  /** When to ask again, where that is known. */
  get retryAfter(): Duration.Duration | undefined {
    return this.cause.retryAfter
  }

  /** Whether the database was not even asked: its circuit breaker is open, or another limit of ours refused. */
  get rejection(): boolean {
    const cause: unknown = this.cause.cause
    return Predicate.hasProperty(cause, "rejection") && cause.rejection === true
  }
}

const serverField = (error: unknown, name: string): string | undefined => {
  if (!Predicate.hasProperty(error, name)) return undefined
  const value = error[name]
  return typeof value === "string" ? value : undefined
}

const numberOf = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text))
