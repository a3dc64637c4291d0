import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Jira } from "../../src/index.ts"

const back = (markdown: string) =>
  Effect.runPromise(Effect.flatMap(Jira.adf.fromMarkdown(markdown), Jira.adf.toMarkdown))

describe("Jira.adf", () => {
  for (const markdown of [
    "# One\n\na **b** *c* ~~d~~ `e` [f](https://g.h)\n",
    "- a\n  1. b\n- c\n",
    "- [x] a\n- [ ] b\n",
    "```ts\nlet a = 1\n```\n",
    "> [!WARNING]\n>\n> a\n",
    "> a\n",
    "<details>\n<summary>More</summary>\n\na\n\n</details>\n",
    "| a | b |\n| - | - |\n| c | d |\n",
    "a [@Ann](accountid:5%3Aa) b\n",
    "a\\\nb\n\n---\n",
    '```adf\n{\n  "type": "mediaSingle",\n  "content": []\n}\n```\n'
  ]) {
    it(`both ways: ${JSON.stringify(markdown)}`, async () => {
      assert.strictEqual(await back(markdown), markdown)
    })
  }

  it("a mention is one, a heading in a list becomes a paragraph", async () => {
    const document = await Effect.runPromise(Jira.adf.fromMarkdown("- # a\n\n[@Ann](accountid:5%3Aa)\n"))
    assert.deepStrictEqual(document.content, [
      {
        type: "bulletList",
        content: [{ type: "listItem", content: [{ type: "paragraph", content: [{ type: "text", text: "a" }] }] }]
      },
      { type: "paragraph", content: [{ type: "mention", attrs: { id: "5:a", text: "@Ann" } }] }
    ])
  })

  it("plain text is paragraphs", () => {
    assert.deepStrictEqual(Jira.adf.fromText("*a*\nb\r\n\r\nc").content, [
      {
        type: "paragraph",
        content: [{ type: "text", text: "*a*" }, { type: "hardBreak" }, { type: "text", text: "b" }]
      },
      { type: "paragraph", content: [{ type: "text", text: "c" }] }
    ])
  })

  it("what is no document, or too deep, is refused", async () => {
    let deep: unknown = { type: "paragraph" }
    for (let at = 0; at < 100_000; at++) deep = { type: "blockquote", content: [deep] }
    for (const document of [undefined, "a", { type: 1 }, { type: "doc", content: {} }, deep]) {
      assert.strictEqual((await Effect.runPromise(Effect.flip(Jira.adf.toMarkdown(document)))).reason, "Malformed")
    }
    assert.strictEqual(
      (await Effect.runPromise(Effect.flip(Jira.adf.fromMarkdown("> ".repeat(100))))).reason,
      "TooDeep"
    )
  })
})
