import { assert, describe, it } from "@effect/vitest"
import * as TextSearch from "../../src/storage/TextSearch.ts"

const words = (text: string) => [...TextSearch.words(text)]

describe("TextSearch", () => {
  it("words are runs of letters, digits and marks in lower case", () => {
    assert.deepStrictEqual(words("The disk, the DISK: 2.5 GB!"), [
      ["the", 2],
      ["disk", 2],
      ["2", 1],
      ["5", 1],
      ["gb", 1]
    ])
    assert.deepStrictEqual(words("it's naïve_x"), [
      ["it", 1],
      ["s", 1],
      ["naïve", 1],
      ["x", 1]
    ])
    assert.deepStrictEqual(words(" \n\t...!? 🚀 '\\ & |"), [])
    assert.deepStrictEqual(words(""), [])
  })

  it("one word is one, however it is composed or wide", () => {
    assert.deepStrictEqual(words("e\u0301cole \u00e9cole ÉCOLE"), [["école", 3]])
    assert.deepStrictEqual(words("ｄｉｓｋ disk"), [["disk", 2]])
  })

  it("of scripts without spaces each pair of characters is one", () => {
    assert.deepStrictEqual(
      words("磁盘已满 disk磁 エラー ดิสก์").map(([word]) => word),
      ["磁盘", "盘已", "已满", "disk", "磁", "エラ", "ラー", ...words("ดิสก์").map(([word]) => word)]
    )
    // Also where they are beyond the first plane.
    assert.deepStrictEqual(
      words("𠀀𠀁𠀂").map(([word]) => word),
      ["𠀀𠀁", "𠀁𠀂"]
    )
  })

  it("is bounded: the length of a word, its count, the bytes of all", () => {
    assert.deepStrictEqual(words("x".repeat(1_000)), [["x".repeat(64), 1]])
    assert.deepStrictEqual(words("𐐨".repeat(100)), [["𐐨".repeat(64), 1]])
    assert.deepStrictEqual(words("a ".repeat(100_000)), [["a", TextSearch.maxCount]])
    const many = TextSearch.words(Array.from({ length: 200_000 }, (_, n) => `w${n}`).join(" "))
    let bytes = 0
    for (const word of many.keys()) bytes += word.length
    assert.isAtMost(bytes, TextSearch.maxBytes)
    assert.isAbove(bytes, TextSearch.maxBytes - 10)
    assert.strictEqual(TextSearch.queryWords(Array.from({ length: 1_000 }, (_, n) => `w${n}`).join(" ")).length, 256)
  })

  it("text of a megabyte takes a moment, whatever it is of", () => {
    for (const piece of ["a", "a ", "磁", "e\u0301", "!", "\ud800", "\u0000 "]) {
      const before = process.cpuUsage()
      TextSearch.words(piece.repeat(1_000_000 / piece.length))
      assert.isBelow(process.cpuUsage(before).user / 1e6, 10, JSON.stringify(piece))
    }
  })

  it("ranks by BM25: rare words, more of them, and shorter documents are worth more", () => {
    const ranking = TextSearch.ranking(TextSearch.queryWords("disk full"))
    ranking.add("both", "the disk is full")
    ranking.add("one", "the disk is there")
    ranking.add("twice", "disk disk is there")
    ranking.add("long", `the disk is there ${"and so on ".repeat(20)}`)
    ranking.add("none", "memory")
    ranking.add("empty", "...")
    const scores = new Map(ranking.scores().map(({ id, score }) => [id, score]))
    const order = [...scores].sort(([, a], [, b]) => b - a).map(([id]) => id)
    assert.deepStrictEqual(order, ["both", "twice", "one", "long"])
    for (const score of scores.values()) assert.isAbove(score, 0)
    assert.deepStrictEqual(TextSearch.ranking(["x"]).scores(), [])
  })
})
