import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as Readme from "@underlay/servers/Readme"
import { Effect, type Scope } from "effect"
import * as ConfluenceDouble from "./ConfluenceDouble.ts"
import type { HttpDouble } from "./HttpDouble.ts"
import * as JiraDouble from "./JiraDouble.ts"

const root = Path.join(import.meta.dirname, "../..")
const blocksOf = (page: string) => Readme.blocksOfGuide(Path.join(root, "../../docs/connections", page))
const jira = blocksOf("jira.md")
const confluence = blocksOf("confluence.md")

/** Runs one on a double, which is loopback: that has to be said, and is all that is changed. */
const runs = (
  blocks: ReadonlyArray<Readme.Block>,
  layer: string,
  prefix: string,
  start: Effect.Effect<HttpDouble, never, Scope.Scope>
) =>
  Effect.gen(function* () {
    const double = yield* start
    yield* Readme.environment({
      [`${prefix}_URL`]: double.origin,
      [`${prefix}_EMAIL`]: "me@example.com",
      [`${prefix}_TOKEN`]: "api-token"
    })
    const told = blocks.map((block) => ({
      ...block,
      code: block.code.replace(`${layer}(settings)`, `${layer}({ ...settings, allowInsecureLoopback: true })`)
    }))
    const { files } = yield* Readme.write(root, told)
    yield* Readme.run(files[0] ?? "")
    assert.deepStrictEqual(double.api?.problems, [])
    return double.asked.map(({ method, url }) => `${method} ${url.pathname}`)
  })

describe("docs of Jira and Confluence", () => {
  it("have a program each", () => {
    assert.deepStrictEqual([jira.length, confluence.length], [1, 1])
  })

  describe.skipIf(Need.missing("openapi"))(Need.title("on doubles", "openapi"), () => {
    it.scopedLive(
      "the one of Jira runs",
      () =>
        Effect.map(runs(jira, "Jira.layer", "JIRA", JiraDouble.start(3)), (asked) =>
          assert.include(asked, "POST /rest/api/3/issue")
        ),
      60_000
    )

    it.scopedLive(
      "the one of Confluence runs",
      () =>
        Effect.map(runs(confluence, "Confluence.layer", "CONFLUENCE", ConfluenceDouble.start(3)), (asked) =>
          assert.include(asked, "POST /wiki/api/v2/pages")
        ),
      60_000
    )
  })
})
