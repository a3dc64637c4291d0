/**
 * What refusals of our own have in common: plain objects without a stack, since refusing must be cheap.
 */
import type * as ErrorClass from "../../resilience/ErrorClass.ts"

export abstract class Rejection {
  abstract readonly _tag: string
  abstract get message(): string
  /** The name of what refused, which is that of the service. */
  readonly service: string

  constructor(service: string) {
    this.service = service
  }
  get isRetryable(): boolean {
    return true
  }
  get errorClass(): ErrorClass.ErrorClass {
    return "transient"
  }
  /** The service was not asked. */
  get rejection(): true {
    return true
  }
  toString(): string {
    return `${this._tag}: ${this.message}`
  }
}
