import * as Path from "node:path"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Embeddings, VectorStore } from "@underlay/core"
import { Effect, FastCheck, Layer } from "effect"
import * as LocalAnswerer from "../src/LocalAnswerer.ts"
import * as Ranking from "../src/Ranking.ts"
import * as Runbooks from "../src/Runbooks.ts"
import * as Search from "../src/Search.ts"
import { contentWords, editDistance, stem } from "../src/Words.ts"
import * as Support from "./support.ts"

const file = (id: string, body: string): string =>
  `---\nid: ${id}\ntitle: About ${id}\nservice: Test\nseverity: low\ntags: [one, "two words"]\n---\n# About ${id}\n\n${body}\n`

const parsed = (id: string, body: string) => Runbooks.parse(`${id}.md`, file(id, body))

describe("runbooks", () => {
  it.effect("are cut into their sections, each with its purpose; headings in code are text", () =>
    Effect.gen(function* () {
      const runbook = yield* parsed(
        "a-b",
        "Intro.\n\n## Symptoms\n\nBad.\n\n## Fix\n\n```sh\n## not a heading\n```\n\n## Prevent\n\nGood.\n\n## Notes\n\nMore."
      )
      assert.deepStrictEqual(
        runbook.sections.map(({ heading, id, purpose }) => [id, heading, purpose]),
        [
          ["a-b#overview", "Overview", "overview"],
          ["a-b#symptoms", "Symptoms", "symptoms"],
          ["a-b#fix", "Fix", "fix"],
          ["a-b#prevent", "Prevent", "prevent"],
          ["a-b#notes", "Notes", "other"]
        ]
      )
      assert.include(runbook.sections[2]?.text ?? "", "## not a heading")
      assert.deepStrictEqual(runbook.tags, ["one", "two words"])
    })
  )

  it.effect("a file that cannot be used is named with what is wrong in it", () =>
    Effect.gen(function* () {
      const problems = [
        ["# No front matter", /front matter/],
        ["---\nid: Bad Id\ntitle: T\nservice: S\nseverity: urgent\ntags: [a]\n---\nText", /id[\s\S]*severity/],
        [file("open", "## Fix\n\n```sh\nls\n"), /never closed/],
        ["---\nid: empty\ntitle: T\nservice: S\nseverity: low\ntags: [a]\n---\n", /no text/]
      ] as const
      for (const [text, problem] of problems) {
        const error = yield* Effect.flip(Runbooks.parse("x.md", text))
        assert.match(error.message, /x\.md/)
        assert.match(error.message, problem)
      }
      const one = yield* parsed("same", "Text")
      assert.match((yield* Effect.flip(Runbooks.make([one, one]))).message, /same id/)
    })
  )

  it.effect("all files of the assistant are sound: at least twelve, each with what to look for, do and prevent", () =>
    Effect.gen(function* () {
      const { all } = yield* Runbooks.Runbooks
      assert.isAtLeast(all.length, 12)
      for (const runbook of all) {
        const purposes = runbook.sections.map((section) => section.purpose)
        assert.includeMembers(purposes, ["overview", "symptoms", "causes", "diagnose", "fix", "prevent"], runbook.id)
      }
    }).pipe(
      Effect.provide(Runbooks.layer(Path.join(Support.folder, "runbooks")).pipe(Layer.provide(NodeContext.layer)))
    )
  )
})

describe("words", () => {
  it("forms of one word meet, and compounds are found whole and in parts", () => {
    assert.strictEqual(stem("connections"), stem("connecting"))
    assert.strictEqual(stem("expired"), stem("expires"))
    assert.strictEqual(stem("queries"), stem("query"))
    assert.strictEqual(stem("redis"), "redis")
    const words = contentWords("CrashLoopBackOff of the evicted_keys").map((word) => word.written)
    assert.includeMembers(words, ["crash", "loop", "evicted_keys", "evicted", "keys"])
    assert.notInclude(words, "the")
  })

  it("the distance of two words is a distance, and stops at its limit", () => {
    assert.strictEqual(editDistance("postgres", "potsgres", 2), 1)
    assert.strictEqual(editDistance("redis", "rediss", 2), 1)
    assert.strictEqual(editDistance("disk", "certificate", 2), 3)
    const word = FastCheck.string({ maxLength: 12 })
    FastCheck.assert(
      FastCheck.property(word, word, (a, b) => {
        const distance = editDistance(a, b, 30)
        return distance === editDistance(b, a, 30) && (distance === 0) === (a === b)
      })
    )
  })
})

describe("keyword ranking", () => {
  const index = Ranking.make([
    { id: "redis", fields: [{ text: "redis refuses connections, maxmemory", weight: 1 }] },
    { id: "disk", fields: [{ text: "disk full, no space left on device", weight: 1 }] },
    { id: "certificate", fields: [{ text: "the certificate has expired", weight: 1 }] }
  ])
  const best = (question: string) => index.rank(question).ranked[0]?.id

  it("finds words in other forms, mistyped, run together and in others' words", () => {
    assert.strictEqual(best("connection refused by redis"), "redis")
    assert.strictEqual(best("certifcate expird"), "certificate")
    assert.strictEqual(best("diskfull"), "disk")
    assert.strictEqual(best("the drive has no storage"), "disk")
    assert.strictEqual(best("our certs"), "certificate")
  })

  it("knows nothing of what is not there, and short words are not bent into others", () => {
    assert.deepStrictEqual(index.rank("weather in Paris"), { ranked: [], known: 0 })
    assert.strictEqual(best("dish"), undefined)
    assert.strictEqual(index.rank("").known, 0)
  })

  it("any text is ranked without a failure, by finite scores in falling order", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.fullUnicodeString({ maxLength: 200 }), (text) => {
        const { known, ranked } = index.rank(text)
        const scores = ranked.map((one) => one.score)
        return (
          known >= 0 &&
          known <= 1 &&
          scores.every((score) => Number.isFinite(score)) &&
          scores.every((score, at) => at === 0 || score <= (scores[at - 1] ?? 0))
        )
      })
    )
  })
})

describe("the index in the vector store", () => {
  const build = (runbooks: ReadonlyArray<Runbooks.Runbook>) =>
    Effect.flatMap(Runbooks.make(runbooks), (service) =>
      Search.make.pipe(Effect.provideService(Runbooks.Runbooks, service))
    )

  it.effect("what is there unchanged is not embedded again; what changed is, and what is gone is taken out", () =>
    Effect.gen(function* () {
      const store = yield* VectorStore.VectorStore
      const one = yield* parsed("one", "Redis.\n\n## Fix\n\nStart redis.")
      const two = yield* parsed("two", "Disks.\n\n## Fix\n\nFree space.")
      assert.strictEqual((yield* build([one, two])).index.written, 4)
      assert.strictEqual((yield* build([one, two])).index.written, 0)
      const changed = yield* parsed("two", "Disks.\n\n## Fix\n\nFree much space.")
      assert.strictEqual((yield* build([one, changed])).index.written, 1)
      const [collection] = yield* store.collections
      assert.strictEqual(yield* store.count(collection?.name ?? ""), 4)
      const search = yield* build([one])
      assert.strictEqual(search.index.written, 0)
      assert.strictEqual(yield* store.count(collection?.name ?? ""), 2)
      const found = yield* search.search("start redis")
      assert.strictEqual(found.runbooks[0]?.runbook.id, "one")
    }).pipe(Effect.provide([VectorStore.layerMemory, Embeddings.layerLocal()]))
  )

  it.effect("a store that fails is a search that fails, and says whether it may work later", () =>
    Effect.gen(function* () {
      const store = yield* VectorStore.VectorStore
      const one = yield* parsed("one", "Redis.\n\n## Fix\n\nStart redis.")
      const search = yield* build([one])
      const [collection] = yield* store.collections
      yield* store.dropCollection(collection?.name ?? "")
      const error = yield* Effect.flip(search.search("start redis"))
      assert.strictEqual(error._tag, "SearchError")
      assert.isFalse(error.isRetryable)
    }).pipe(Effect.provide([VectorStore.layerMemory, Embeddings.layerLocal()]))
  )
})

describe("the local answerer", () => {
  it.effect("cites every section it uses, keeps code whole, and says what it is", () =>
    Effect.gen(function* () {
      const runbook = yield* parsed(
        "one",
        `Intro.\n\n## Fix\n\nRun:\n\n\`\`\`sh\nls -l\ndf -h\n\`\`\`\n\n${"Long. ".repeat(400)}`
      )
      const sources = runbook.sections.map((section, at) => ({
        number: at + 1,
        role: "answer" as const,
        section,
        score: 1
      }))
      const text = LocalAnswerer.compose({
        text: "run df",
        purpose: undefined,
        runbook,
        sources,
        history: [],
        sure: true,
        strange: [],
        also: []
      })
      assert.include(text, "[1]")
      assert.include(text, "[2]")
      assert.include(text, "```sh\nls -l\ndf -h\n```")
      assert.isBelow(text.length, 1_500)
      assert.match(text, /local answerer/)
    })
  )
})
