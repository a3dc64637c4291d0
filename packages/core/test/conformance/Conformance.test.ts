/**
 * What users of other libraries complain of, and what was reproduced in them, each as a case that ours must pass. The same
 * cases run on the others in `benchmarks/`.
 */
import { assert, describe, it } from "@effect/vitest"
import { ResilienceSuite } from "@underlay/core/testing"
import { run } from "./TestTime.ts"

/** Every thread that was read for the suite, by repository; a case must go back to it. */
const threads: Readonly<Record<string, ReadonlyArray<number>>> = {
  "App-vNext/Polly": [217, 287, 414, 1133, 1828, 3094],
  "CopilotKit/CopilotKit": [3842],
  "KanishJebaMathewM/Truxify": [11360],
  "MCKRUZ/microsoft-agentic-harness": [353],
  "antflydb/termite": [27],
  "apache/opendal": [7376],
  "aws/aws-sdk-cpp": [3832],
  "awslabs/aws-sdk-rust": [1234],
  "browserbase/sdk-node": [205],
  "comet-ml/opik": [1334],
  "connor4312/cockatiel": [11, 69, 89, 112],
  "cyanheads/mcp-ts-core": [285],
  "dapr/dapr": [5872],
  "denoland/std": [7306],
  "diegosouzapw/OmniRoute": [4114, 13836],
  "elennick/retry4j": [41],
  "envoyproxy/envoy": [9069],
  "future-agi/future-agi": [2693],
  "joshrotenberg/tower-resilience": [171],
  "microsoft/agent-governance-toolkit": [2202],
  "monix/monix": [1080],
  "nodeshift/opossum": [248, 648, 675, 809, 819],
  "openai/openai-node": [2580],
  "resilience4j/resilience4j": [
    515, 544, 614, 650, 682, 703, 839, 903, 920, 935, 1123, 1432, 1653, 1657, 1756, 2028, 2243, 2298
  ],
  "smallrye/smallrye-fault-tolerance": [319],
  "sony/gobreaker": [73, 85],
  "svroonland/rezilience": [521],
  "thomhurst/Kevlar": [227, 507],
  "tim-kos/node-retry": [26],
  "vercel/ai": [7656],
  "vercel/fetch-retry": [31]
}

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

  it("no thread is without a case", () => {
    const sources = new Set(ResilienceSuite.cases.flatMap((one) => one.sources))
    const missing = Object.entries(threads).flatMap(([repository, numbers]) =>
      numbers
        .filter((n) => !["issues", "pull"].some((kind) => sources.has(`https://github.com/${repository}/${kind}/${n}`)))
        .map((n) => `${repository}#${n}`)
    )
    assert.deepStrictEqual(missing, [])
  })
})
