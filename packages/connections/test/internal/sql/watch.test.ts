import { assert, describe, it } from "@effect/vitest"
import {
  Bulkhead,
  CircuitBreaker,
  ErrorClass,
  ExternalClient,
  Policy,
  RateLimit,
  Throttle,
  Timeout
} from "@underlay/core"
import { policyError } from "@underlay/core/connection/ConnectionLifecycle"
import { Duration } from "effect"
import { DatabaseError } from "../../../src/database/DatabaseError.ts"

const at = { kind: "postgres", name: "orders" }
const service = "orders"
const retryAfter = Duration.seconds(5)

describe("the errors of a policy as those of a database", () => {
  const cases: ReadonlyArray<
    readonly [
      error: ExternalClient.ExternalError,
      reason: string,
      found: { readonly class: string; readonly rejection: boolean; readonly retryAfter: number | undefined }
    ]
  > = [
    [
      new CircuitBreaker.CircuitOpen({ service, retryAfter }),
      "Unavailable",
      { class: "transient", rejection: true, retryAfter: 5000 }
    ],
    [
      new CircuitBreaker.CircuitOpen({ service, retryAfter: Duration.infinity }),
      "Unavailable",
      { class: "transient", rejection: true, retryAfter: undefined }
    ],
    [
      new RateLimit.RateLimitExceeded({ service, retryAfter }),
      "Throttled",
      { class: "rate-limited", rejection: true, retryAfter: 5000 }
    ],
    [
      new Bulkhead.BulkheadFull({ service, reason: "queue-full" }),
      "Throttled",
      { class: "rate-limited", rejection: true, retryAfter: undefined }
    ],
    [
      new Bulkhead.BulkheadFull({ service, reason: "weight-above-limit", weight: 3, limit: 2 }),
      "InvalidRequest",
      { class: "permanent", rejection: true, retryAfter: undefined }
    ],
    [
      new Throttle.CallThrottled({ service, probability: 0.5 }),
      "Throttled",
      { class: "rate-limited", rejection: true, retryAfter: undefined }
    ],
    [
      new Policy.StageRejected({ service, stage: "quota", reason: "used up", retryAfter }),
      "Unavailable",
      { class: "transient", rejection: true, retryAfter: 5000 }
    ],
    [
      new Timeout.CallTimeout({ service, scope: "total", limitMillis: 10 }),
      "Timeout",
      { class: "transient", rejection: false, retryAfter: undefined }
    ],
    [
      new ExternalClient.ResponseInvalid({ service, operation: "SELECT", stage: "schema", issues: [] }),
      "Unknown",
      { class: "permanent", rejection: false, retryAfter: undefined }
    ]
  ]
  for (const [error, reason, expected] of cases) {
    it(`${error._tag} is ${reason}, and a refusal stays one for the policies outside`, () => {
      const made = new DatabaseError(policyError(at, "SELECT", error))
      assert.strictEqual(made.reason, reason)
      assert.include(made.message, error.message)
      assert.strictEqual(made.rejection, expected.rejection)
      const found = ErrorClass.classify(made)
      assert.deepStrictEqual(
        {
          class: found.class,
          rejection: found.rejection === true,
          retryAfter: found.retryAfter === undefined ? undefined : Duration.toMillis(found.retryAfter)
        },
        expected
      )
      if (expected.rejection) assert.isFalse(found.sent)
    })
  }
})
