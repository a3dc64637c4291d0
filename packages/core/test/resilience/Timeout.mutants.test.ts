/**
 * What a timeout says of itself.
 */
import { assert, describe, it } from "@effect/vitest"
import { ErrorClass, Timeout } from "@underlay/core"

const of = (scope: Timeout.Scope, limitMillis = 250) =>
  new Timeout.CallTimeout({ service: "payments", scope, limitMillis })

describe("CallTimeout", () => {
  it("says what took too long, and how long that is", () => {
    assert.deepStrictEqual(
      (["attempt", "total", "first-element", "idle"] as const).map((scope) => of(scope).message),
      [
        "payments: an attempt took longer than 250 ms",
        "payments: the call took longer than 250 ms",
        "payments: the first element took longer than 250 ms",
        "payments: the next element took longer than 250 ms"
      ]
    )
    assert.strictEqual(of("total", 0).message, "payments: the deadline had passed before the call")
  })

  it("is transient, by whatever it is read", () => {
    for (const scope of ["attempt", "total", "first-element", "idle"] as const) {
      const error = of(scope)
      assert.isTrue(error.isRetryable)
      assert.strictEqual(error.errorClass, "transient")
      assert.deepStrictEqual(ErrorClass.classify(error), { class: "transient" })
    }
  })
})
