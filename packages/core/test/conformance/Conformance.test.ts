/**
 * What users of other libraries complain of, and what was reproduced in them, each as a case that ours must pass. The same
 * cases run on the others in `benchmarks/`.
 */
import { assert, describe, it } from "@effect/vitest"
import { ResilienceSuite } from "@underlay/core/testing"
import { run } from "./TestTime.ts"

describe("conformance", () => {
  for (const one of ResilienceSuite.cases) it.effect(`${one.id}: ${one.title}`, () => run(one))

  // The same guards round functions of an abort signal, which take another way through a policy.
  describe("of promises", () => {
    const shared = ResilienceSuite.cases.filter((one) => !one.needs.includes("underlay"))
    for (const one of shared) it.effect(`${one.id}: ${one.title}`, () => run(one, "promises"))
  })

  it("every case has an id of its own and says where it comes from", () => {
    const ids = ResilienceSuite.cases.map((one) => one.id)
    assert.strictEqual(new Set(ids).size, ids.length)
    assert.isAtLeast(ids.length, 40)
    for (const one of ResilienceSuite.cases) {
      assert.match(one.id, /^[a-z0-9]+(-[a-z0-9]+)*$/)
      assert.isNotEmpty(one.sources, one.id)
    }
  })
})
