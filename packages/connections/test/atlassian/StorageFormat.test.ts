import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import fc from "fast-check"
import { StorageFormat } from "../../src/index.ts"

const toMarkdown = (storage: string) => Effect.runPromise(StorageFormat.toMarkdown(storage))
const fromMarkdown = (markdown: string) => Effect.runPromise(StorageFormat.fromMarkdown(markdown))

const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;")

// What Markdown gives a meaning, beside plain words.
const word = fc.oneof(
  { weight: 3, arbitrary: fc.stringMatching(/^[a-z]{1,6}$/) },
  fc
    .constantFrom(
      "*",
      "**",
      "_",
      "__",
      "`",
      "``",
      "[",
      "]",
      "](x)",
      "![",
      "<",
      ">",
      "<b>",
      "#",
      "# ",
      "- ",
      "+",
      "1.",
      "1) "
    )
    .map((text) => text),
  fc.constantFrom(
    "|",
    "||",
    "~",
    "~~",
    "\\",
    "&",
    "&amp;",
    "!",
    "[!INFO]",
    "[x] ",
    "---",
    "===",
    "http://a.b/c",
    "a@b.c"
  ),
  fc.constantFrom(
    " ",
    "  ",
    "\u00a0",
    "é",
    "日本",
    "😀",
    ".",
    ":",
    "(",
    ")",
    '"',
    "'",
    "\t",
    "<!--",
    "-->",
    "```",
    "    "
  )
)
const text = fc.array(word, { minLength: 1, maxLength: 5 }).map((words) => words.join(""))
const xmlText = text.map(escape)

const name = fc.stringMatching(/^[a-z][a-z-]{0,6}$/)
const { inline, blocks } = fc.letrec<{ inline: string; line: string; block: string; blocks: string }>((tie) => ({
  inline: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    xmlText,
    fc
      .tuple(fc.constantFrom("strong", "em", "del", "u", "sub", "sup", "b", "i", "s", "span"), tie("line"))
      .map(([tag, body]) => `<${tag}>${body}</${tag}>`),
    xmlText.map((body) => `<code>${body}</code>`),
    fc.constant("<br/>"),
    fc
      .tuple(fc.constantFrom("http://x.y/z", "#here", "a b", "mailto:a@b.c"), tie("line"))
      .map(([to, body]) => `<a href="${to}">${body}</a>`),
    fc
      .tuple(xmlText, xmlText)
      .map(
        ([title, body]) =>
          `<ac:link><ri:page ri:content-title="${title}" /><ac:plain-text-link-body>${body}</ac:plain-text-link-body></ac:link>`
      ),
    xmlText.map((file) => `<ac:image ac:alt="${file}"><ri:attachment ri:filename="${file}" /></ac:image>`),
    fc.constantFrom(
      '<ac:emoticon ac:name="smile" />',
      '<time datetime="2020-01-01" />',
      '<ac:link><ri:user ri:account-id="1:a" /></ac:link>',
      '<ac:image ac:width="5"><ri:url ri:value="http://a/b?c=d&amp;e" /></ac:image>'
    ),
    fc
      .tuple(name, xmlText)
      .map(
        ([macro, value]) =>
          `<ac:structured-macro ac:name="x${macro}"><ac:parameter ac:name="title">${value}</ac:parameter></ac:structured-macro>`
      ),
    tie("line").map((body) => `<ac:inline-comment-marker ac:ref="r">${body}</ac:inline-comment-marker>`)
  ),
  line: fc.array(tie("inline"), { maxLength: 4 }).map((parts) => parts.join("")),
  block: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    tie("line").map((body) => `<p>${body}</p>`),
    fc.tuple(fc.integer({ min: 1, max: 6 }), tie("line")).map(([depth, body]) => `<h${depth}>${body}</h${depth}>`),
    tie("line"),
    fc.constant("<hr/>"),
    fc
      .tuple(fc.constantFrom("ul", "ol"), fc.array(fc.oneof(tie("line"), tie("blocks")), { maxLength: 3 }))
      .map(([tag, items]) => `<${tag}>${items.map((item) => `<li>${item}</li>`).join("")}</${tag}>`),
    fc
      .array(fc.tuple(fc.boolean(), tie("line")), { maxLength: 3 })
      .map(
        (items) =>
          `<ac:task-list>${items
            .map(
              ([done, body]) =>
                `<ac:task><ac:task-status>${done ? "complete" : "incomplete"}</ac:task-status><ac:task-body>${body}</ac:task-body></ac:task>`
            )
            .join("")}</ac:task-list>`
      ),
    tie("blocks").map((body) => `<blockquote>${body}</blockquote>`),
    fc
      .tuple(fc.option(fc.stringMatching(/^[a-z+#]{1,8}$/)), xmlText, fc.option(xmlText))
      .map(
        ([language, body, title]) =>
          `<ac:structured-macro ac:name="code">${
            language === null ? "" : `<ac:parameter ac:name="language">${language}</ac:parameter>`
          }${title === null ? "" : `<ac:parameter ac:name="title">${title}</ac:parameter>`}<ac:plain-text-body>${body}\n${body}</ac:plain-text-body></ac:structured-macro>`
      ),
    fc
      .tuple(
        fc.constantFrom("info", "note", "tip", "warning", "expand", "panel", "excerpt"),
        fc.option(xmlText),
        tie("blocks")
      )
      .map(
        ([macro, title, body]) =>
          `<ac:structured-macro ac:name="${macro}">${
            title === null ? "" : `<ac:parameter ac:name="title">${title}</ac:parameter>`
          }<ac:rich-text-body>${body}</ac:rich-text-body></ac:structured-macro>`
      ),
    tie("blocks").map(
      (body) =>
        `<ac:layout><ac:layout-section ac:type="single"><ac:layout-cell>${body}</ac:layout-cell></ac:layout-section></ac:layout>`
    ),
    fc
      .tuple(fc.boolean(), fc.array(fc.tuple(tie("line"), tie("line")), { minLength: 1, maxLength: 3 }))
      .map(
        ([head, rows]) =>
          `<table><tbody>${rows
            .map(
              (row, at) =>
                `<tr>${row.map((cell) => (head && at === 0 ? `<th>${cell}</th>` : `<td>${cell}</td>`)).join("")}</tr>`
            )
            .join("")}</tbody></table>`
      ),
    fc.tuple(name, xmlText).map(([tag, body]) => `<ac:x-${tag} ac:a="${body}"><b>${body}</b></ac:x-${tag}>`)
  ),
  blocks: fc.array(tie("block"), { maxLength: 4 }).map((parts) => parts.join(""))
}))
void inline

const markdownLine = fc.array(word, { maxLength: 8 }).map((words) => words.join(""))
const markdown = fc
  .array(
    fc.tuple(
      fc.constantFrom("", "", "", "> ", "- ", "  ", "    ", "1. ", "# ", "| ", "```", "- [ ] ", "\n"),
      markdownLine
    ),
    { maxLength: 8 }
  )
  .map((lines) => lines.map(([start, rest]) => start + rest).join("\n"))

const numRuns = Number(process.env["STORAGE_RUNS"] ?? 1_000)

describe("StorageFormat", () => {
  it("what was converted once stays as it is: storage to Markdown and back", async () => {
    await fc.assert(
      fc.asyncProperty(blocks, async (storage) => {
        const markdown = await toMarkdown(storage)
        const normal = await fromMarkdown(markdown)
        assert.strictEqual(await toMarkdown(normal), markdown)
        assert.strictEqual(await fromMarkdown(await toMarkdown(normal)), normal)
      }),
      { numRuns }
    )
  })

  it("what was converted once stays as it is: Markdown to storage and back", async () => {
    await fc.assert(
      fc.asyncProperty(markdown, async (source) => {
        const storage = await fromMarkdown(source)
        const normal = await toMarkdown(storage)
        assert.strictEqual(await fromMarkdown(normal), storage)
        assert.strictEqual(await toMarkdown(await fromMarkdown(normal)), normal)
      }),
      { numRuns }
    )
  })
})
