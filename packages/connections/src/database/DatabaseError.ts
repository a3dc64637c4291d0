/**
 * The error of a failed statement: an `SqlError` of `@effect/sql`, so that `catchTag("SqlError", ...)` catches it, that
 * knows its reason and PostgreSQL's code.
 *
 * @since 0.1.0
 */
import { SqlError } from "@effect/sql/SqlError"
import type { ConnectionError, ConnectionErrorReason } from "@underlay/core/connection/Connection"
import { CircuitOpen } from "@underlay/core/resilience/CircuitBreaker"

/**
 * A statement, a transaction or a connection failed. `cause` is the `ConnectionError`, whose own cause is what the
 * driver threw.
 *
 * @since 0.1.0
 * @category errors
 */
export class DatabaseError extends SqlError {
  declare readonly cause: ConnectionError

  constructor(failure: ConnectionError) {
    super({ cause: failure, message: failure.message })
  }

  get reason(): ConnectionErrorReason {
    return this.cause.reason
  }

  /** PostgreSQL's five-letter code (SQLSTATE) or Node's error code, where there is one. */
  get code(): string | undefined {
    return this.cause.code
  }

  /** Whether the same request may succeed later. What a statement did before it failed is for the caller to know. */
  get isRetryable(): boolean {
    return this.cause.isRetryable
  }

  /** Whether the database was not even asked, because its circuit breaker is open. */
  get rejection(): boolean {
    return this.cause.cause instanceof CircuitOpen
  }
}
