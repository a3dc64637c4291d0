/** What answers draw on: the citations and the grounding of every provider, as sources with their places in the text. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import {
  AnthropicMessages,
  ChatCompletions,
  GenerateContent,
  Llm,
  LlmResponse,
  LlmTest,
  LlmTool,
  LlmToolLoop,
  type Protocol,
  Responses
} from "@underlay/llm"
import { Effect, Either, FastCheck, Schema, Stream } from "effect"

type Source = LlmResponse.LlmSource

const context = { provider: "p", model: "m", method: "stream" }

const event = (value: unknown, name?: string): string =>
  `${name === undefined ? "" : `event: ${name}\n`}data: ${JSON.stringify(value)}\n\n`

interface Played {
  readonly parts: ReadonlyArray<LlmResponse.LlmStreamPart>
  readonly response: LlmResponse.LlmResponse
}

const play = (decoder: Protocol.StreamDecoder, pieces: ReadonlyArray<Uint8Array>): Played => {
  const parts = pieces.flatMap((piece) => decoder.push(piece))
  parts.push(...decoder.end())
  assert.isUndefined(decoder.failure())
  return { parts, response: LlmResponse.fromParts(parts) ?? assert.fail("no finish") }
}

const bytes = (body: string): Uint8Array => new TextEncoder().encode(body)

/** The sources with the words to which each belongs. */
const cited = ({ sources, text }: LlmResponse.LlmResponse) =>
  sources?.map((source) => {
    const name = source.sourceType === "url" ? source.url : (source.id ?? source.index ?? source.title)
    return [name, source.start === undefined ? undefined : text.slice(source.start, source.end)]
  })

const right = <A>(either: Either.Either<A, unknown>): A => Either.getOrThrow(either)

/** A format: its whole answers and its streams. */
const format = (module: {
  readonly decode: (body: string, context: Protocol.CallContext) => Either.Either<LlmResponse.LlmResponse, unknown>
  readonly makeStreamDecoder: (context: Protocol.CallContext) => Protocol.StreamDecoder
}) => ({
  whole: (body: unknown): LlmResponse.LlmResponse => right(module.decode(JSON.stringify(body), context)),
  stream: (body: string): Played => play(module.makeStreamDecoder(context), [bytes(body)]),
  /** What is handed on up to there. */
  begin: (body: string): ReadonlyArray<LlmResponse.LlmStreamPart> =>
    module.makeStreamDecoder(context).push(bytes(body)),
  decoder: () => module.makeStreamDecoder(context)
})

// ---------------------------------------------------------------------------------------------------------------------

const responses = format(Responses)

const page = (url: string, start: unknown, end: unknown, title = "T") => ({
  type: "url_citation",
  url,
  title,
  start_index: start,
  end_index: end
})

const output = (text: string, annotations: ReadonlyArray<unknown> = []) => ({ type: "output_text", text, annotations })

const message = (content: ReadonlyArray<unknown>, id = "msg_1") => ({
  type: "message",
  id,
  role: "assistant",
  status: "completed",
  content
})

const answered = (...items: ReadonlyArray<unknown>) => ({
  id: "resp_1",
  object: "response",
  status: "completed",
  model: "m",
  output: items,
  usage: { input_tokens: 1, output_tokens: 1 }
})

const typed = (type: string, value: object): string => event({ type, ...value }, type)

const at = { item_id: "msg_1", output_index: 0, content_index: 0 }

const searched = "😀 It is red. [r](https://r.example) And blue. [b](https://b.example)"
const red = "[r](https://r.example)"
const blue = "[b](https://b.example)"
/** In code points, as the server counts. */
const range = (text: string, part: string): [number, number] => {
  const start = [...text.slice(0, text.indexOf(part))].length
  return [start, start + [...part].length]
}
const annotations = [
  page("https://r.example", ...range(searched, red)),
  page("https://b.example", ...range(searched, blue))
]

const searchStream = (): string => {
  const cut = searched.indexOf(red) + red.length
  const part = output(searched, annotations)
  return [
    typed("response.output_item.added", { output_index: 0, item: { ...message([]), status: "in_progress" } }),
    typed("response.content_part.added", { ...at, part: output("") }),
    typed("response.output_text.delta", { ...at, delta: searched.slice(0, cut) }),
    typed("response.output_text.annotation.added", { ...at, annotation_index: 0, annotation: annotations[0] }),
    typed("response.output_text.delta", { ...at, delta: searched.slice(cut) }),
    typed("response.output_text.annotation.added", { ...at, annotation_index: 1, annotation: annotations[1] }),
    typed("response.output_text.done", { ...at, text: searched }),
    typed("response.content_part.done", { ...at, part }),
    typed("response.output_item.done", { output_index: 0, item: message([part]) }),
    typed("response.completed", { response: answered(message([part])) })
  ].join("")
}

describe("Responses", () => {
  it("annotations are sources, placed in UTF-16 although the server counts code points", () => {
    const answer = responses.whole(answered(message([output(searched, annotations)])))
    assert.deepStrictEqual(answer.sources?.[0], {
      type: "source",
      sourceType: "url",
      url: "https://r.example",
      title: "T",
      start: searched.indexOf(red),
      end: searched.indexOf(red) + red.length
    })
    assert.deepStrictEqual(cited(answer), [
      ["https://r.example", red],
      ["https://b.example", blue]
    ])
  })

  it("of a stream each is told once, between the texts where it came, though four events say it", () => {
    const { parts, response } = responses.stream(searchStream())
    assert.deepStrictEqual(
      parts.map(({ type }) => type),
      ["text-delta", "source", "text-delta", "source", "finish"]
    )
    assert.deepStrictEqual(cited(response), [
      ["https://r.example", red],
      ["https://b.example", blue]
    ])
  })

  it("places count from the beginning of the part, and are those of the whole text", () => {
    const first = [output("Grüße. "), output("A red one.", [page("https://r.example", 2, 5)])]
    const second = [output("😀 blue", [page("https://b.example", 2, 6)])]
    const body = answered(message(first), { type: "reasoning", id: "rs", summary: [] }, message(second, "msg_2"))
    const expected = [
      ["https://r.example", "red"],
      ["https://b.example", "blue"]
    ]
    assert.deepStrictEqual(cited(responses.whole(body)), expected)
    // The same, of which the texts have come before.
    const told =
      typed("response.output_text.delta", { ...at, delta: "Grüße. " }) +
      typed("response.output_text.delta", { ...at, content_index: 1, delta: "A red one." }) +
      typed("response.output_text.delta", { item_id: "msg_2", output_index: 2, content_index: 0, delta: "😀 blue" })
    assert.deepStrictEqual(
      cited(responses.stream(told + typed("response.completed", { response: body })).response),
      expected
    )
  })

  it("files are documents: searched ones, those of a container, and those that were made", () => {
    const { sources } = responses.whole(
      answered(
        message([
          output("see it", [
            { type: "file_citation", file_id: "file-1", filename: "a.pdf", index: 6 },
            { type: "file_citation", file_id: "file-1", filename: "a.pdf", index: 2 },
            {
              type: "container_file_citation",
              file_id: "cfile_2",
              container_id: "cntr_1",
              filename: "b.png",
              start_index: 0,
              end_index: 3
            },
            { type: "file_path", file_id: "file-3", index: 0 }
          ])
        ])
      )
    )
    const document = { type: "source", sourceType: "document" }
    assert.deepStrictEqual<unknown>(sources, [
      { ...document, id: "file-1", title: "a.pdf" },
      { ...document, id: "cfile_2", containerId: "cntr_1", title: "b.png", start: 0, end: 3 },
      { ...document, id: "file-3" }
    ])
  })

  it("an annotation that comes before its text, or only with the whole answer, has its place too", () => {
    const annotation = page("https://r.example", 2, 5)
    const text = typed("response.output_text.delta", { ...at, delta: "A red one" })
    const done = (part: unknown) => typed("response.completed", { response: answered(message([part])) })
    const added = typed("response.output_item.added", { output_index: 0, item: message([]) })
    const early = typed("response.output_text.annotation.added", { ...at, annotation })
    const first = responses.stream(added + early + text + done(output("A red one", [annotation])))
    assert.deepStrictEqual(cited(first.response), [["https://r.example", "red"]])
    const last = responses.stream(text + done(output("A red one", [annotation])))
    assert.deepStrictEqual(cited(last.response), [["https://r.example", "red"]])
    const nameless = responses.stream(
      text + typed("response.output_text.annotation.added", { annotation }) + done(output("A red one", [annotation]))
    )
    assert.deepStrictEqual(cited(nameless.response), [["https://r.example", "red"]])
  })

  it("of a server that says nothing again at the end they have their places too", () => {
    const cut = searched.indexOf(red) + red.length
    const stream =
      typed("response.output_text.delta", { ...at, delta: searched.slice(0, cut) }) +
      typed("response.output_text.delta", { ...at, delta: searched.slice(cut) }) +
      annotations.map((annotation) => typed("response.output_text.annotation.added", { ...at, annotation })).join("") +
      typed("response.completed", { response: answered() })
    assert.deepStrictEqual(cited(responses.stream(stream).response), [
      ["https://r.example", red],
      ["https://b.example", blue]
    ])
  })

  it("of an answer whose end tells another text they have no place", () => {
    const part = output("c".repeat(300), [page("https://c.example", 0, 3)])
    const stream =
      typed("response.output_text.delta", { ...at, delta: "a".repeat(2000) }) +
      typed("response.completed", { response: answered(message([output("b".repeat(5000)), part])) })
    assert.deepStrictEqual(cited(responses.stream(stream).response), [["https://c.example", undefined]])
  })

  it("an annotation of a kind that is not known is work all the same", () => {
    const decoder = responses.decoder()
    decoder.push(bytes(typed("response.output_text.delta", { ...at, delta: "a" })))
    const before = decoder.progress?.() ?? 0
    decoder.push(bytes(typed("response.output_text.annotation.added", { ...at, annotation: { type: "new" } })))
    assert.isAbove(decoder.progress?.() ?? 0, before)
  })

  it("an annotation does not break the text into two", () => {
    assert.deepStrictEqual(responses.stream(searchStream()).response.content, [{ type: "text", text: searched }])
  })

  it("kinds that are not known and annotations that name nothing are left out, wrong places too", () => {
    const odd = [
      null,
      "text",
      7,
      {},
      { type: "paragraph_citation", url: "https://x.example" },
      { type: "__proto__", url: "https://x.example" },
      { type: "url_citation", title: "no address" },
      { type: "url_citation", url: 7 },
      { type: "file_citation", filename: "no id" }
    ]
    const places = [
      [5, 2],
      [0, 0],
      [-1, 3],
      [0.5, 2],
      ["a", "b"],
      [0, 1000],
      [null, null]
    ].map(([start, end], index) => page(`https://${index}.example`, start, end))
    const part = output("A red one", [...odd, ...places])
    const expected = places.map(({ url }) => [url, undefined])
    assert.sameDeepMembers(cited(responses.whole(answered(message([part])))) ?? [], expected)
    const stream =
      typed("response.output_text.delta", { ...at, delta: "A red one" }) +
      [...odd, ...places]
        .map((annotation) => typed("response.output_text.annotation.added", { ...at, annotation }))
        .join("") +
      typed("response.completed", { response: answered(message([part])) })
    assert.sameDeepMembers(cited(responses.stream(stream).response) ?? [], expected)
    for (const annotations of [null, "a", {}, 7]) {
      const none = responses.whole(answered(message([{ type: "output_text", text: "a", annotations }])))
      assert.notProperty(none, "sources")
    }
  })
})

// ---------------------------------------------------------------------------------------------------------------------

const chat = format(ChatCompletions)

const said = (message: object, beside: object = {}) => ({
  id: "c",
  model: "m",
  choices: [{ index: 0, message: { role: "assistant", ...message }, finish_reason: "stop" }],
  ...beside
})

const delta = (delta: object, beside: object = {}, finish_reason: string | null = null) =>
  event({ id: "c", model: "m", choices: [{ index: 0, delta, finish_reason }], ...beside })

const done = "data: [DONE]\n\n"

const annotated = (url: string, start: number, end: number) => ({
  type: "url_citation",
  url_citation: { url, title: "T", start_index: start, end_index: end }
})

const perplexity = {
  citations: ["https://a.example", "https://b.example"],
  search_results: [
    { title: "A", url: "https://a.example", date: "2026-01-01", snippet: "so it is" },
    { title: "B", url: "https://b.example" }
  ]
}

describe("Chat Completions", () => {
  it("annotations of a message and of a delta are sources with their places", () => {
    const content = "😀 It is red."
    const expected = [
      { type: "source", sourceType: "url", url: "https://r.example", title: "T", start: 9, end: 12 }
    ] as const
    const annotations = [annotated("https://r.example", 8, 11)]
    const whole = chat.whole(said({ content, annotations }))
    assert.deepStrictEqual<unknown>(whole.sources, expected)
    assert.deepStrictEqual(cited(whole), [["https://r.example", "red"]])
    const stream = chat.stream(
      delta({ content: "😀 It " }) + delta({ content: "is red." }) + delta({ annotations }, {}, "stop") + done
    )
    assert.deepStrictEqual<unknown>(stream.response.sources, expected)
    assert.deepStrictEqual(stream.response.text, content)
    const beyond = chat.whole(said({ content, annotations: [annotated("https://x.example", 0, 99)] }))
    assert.deepStrictEqual(cited(beyond), [["https://x.example", undefined]])
  })

  it("a place in text that is still to come is told when it has come", () => {
    const annotations = [annotated("https://r.example", 2, 5), annotated("https://x.example", 2, 500)]
    const { parts, response } = chat.stream(
      delta({ content: "A", annotations }) + delta({ content: " red one" }) + delta({}, {}, "stop") + done
    )
    assert.deepStrictEqual(cited(response), [
      ["https://r.example", "red"],
      ["https://x.example", undefined]
    ])
    assert.strictEqual(parts.at(-1)?.type, "finish")
  })

  it("a router's extract is the quote, its flat form is read, its files are no citations", () => {
    const annotations = [
      { type: "url_citation", url_citation: { url: "https://a.example", content: "so it is" } },
      { type: "url_citation", url: "https://b.example", start_index: 0, end_index: 1 },
      { type: "file", file: { hash: "h", name: "a.pdf", content: [] } }
    ]
    assert.deepStrictEqual<unknown>(chat.whole(said({ content: "abc", annotations })).sources, [
      { type: "source", sourceType: "url", url: "https://a.example", quote: "so it is" },
      { type: "source", sourceType: "url", url: "https://b.example", start: 0, end: 1 }
    ])
  })

  it("Perplexity's results, which every chunk says again, are told once, and so are their bare addresses", () => {
    const expected = [
      { type: "source", sourceType: "url", url: "https://a.example", title: "A", quote: "so it is" },
      { type: "source", sourceType: "url", url: "https://b.example", title: "B" }
    ]
    assert.deepStrictEqual<unknown>(chat.whole(said({ content: "a[1]" }, perplexity)).sources, expected)
    const { parts, response } = chat.stream(
      delta({ content: "a" }, perplexity) + delta({ content: "[1]" }, perplexity, "stop") + done
    )
    assert.deepStrictEqual<unknown>(response.sources, expected)
    assert.deepStrictEqual(
      parts.map(({ type }) => type),
      ["text-delta", "source", "source", "text-delta", "finish"]
    )
  })

  it("bare addresses in the last chunk, after the finish reason, count; what is no address does not", () => {
    const citations = ["https://a.example", "", 7, null, "a book", { url: "https://b.example" }]
    const { response } = chat.stream(
      delta({ content: "a" }) + delta({}, {}, "stop") + event({ id: "c", choices: [], citations }) + done
    )
    assert.deepStrictEqual<unknown>(response.sources, [{ type: "source", sourceType: "url", url: "https://a.example" }])
    for (const citations of [null, "https://a.example", {}, [null]]) {
      assert.notProperty(chat.whole(said({ content: "a" }, { citations, search_results: "none" })), "sources")
    }
  })

  it("what Groq's systems searched and visited, and the documents that they cite", () => {
    const executed_tools = [
      { index: 0, type: "search", arguments: "{}" },
      {
        index: 0,
        type: "search",
        arguments: "{}",
        search_results: { results: [{ title: "A", url: "https://a.example", content: "so it is", score: 0.9 }, {}] }
      },
      { index: 1, type: "browser", browser_results: [{ title: "B", url: "https://b.example", content: "all" }] }
    ]
    const annotations = [
      { type: "document_citation", document_citation: { document_id: "d1", start_index: 2, end_index: 5 } },
      { type: "function_citation", function_citation: { tool_call_id: "c", start_index: 0, end_index: 1 } }
    ]
    const expected = [
      ["d1", "red"],
      ["https://a.example", undefined],
      ["https://b.example", undefined]
    ]
    const content = "A red one"
    assert.deepStrictEqual(cited(chat.whole(said({ content, annotations, executed_tools }))), expected)
    const { response } = chat.stream(
      delta({ executed_tools: executed_tools.slice(0, 2) }) +
        delta({ executed_tools }) +
        delta({ content }) +
        delta({ annotations }, {}, "stop") +
        done
    )
    assert.sameDeepMembers(cited(response) ?? [], expected)
    assert.deepStrictEqual(
      response.sources?.map(({ quote }) => quote),
      ["so it is", undefined, undefined]
    )
  })

  it("before the answer begins none is handed on: a stream that fails then can be asked for again", () => {
    const before = delta({ role: "assistant", content: "" }, perplexity)
    const decoder = chat.decoder()
    assert.deepStrictEqual(decoder.push(bytes(before)), [])
    assert.isAbove(decoder.progress?.() ?? 0, 0, "but it is work")
    decoder.end()
    assert.isTrue(decoder.failure()?.retryable)
    assert.deepStrictEqual(
      chat.begin(before + delta({ content: "a" })).map(({ type }) => type),
      ["source", "source", "text-delta"]
    )
    const { parts } = chat.stream(before + delta({}, {}, "stop") + done)
    assert.deepStrictEqual(
      parts.map(({ type }) => type),
      ["source", "source", "finish"]
    )
  })
})

// ---------------------------------------------------------------------------------------------------------------------

const anthropic = format(AnthropicMessages)

const quoted = (type: string, rest: object) => ({ type, cited_text: "so it is", ...rest })

const locations = [
  quoted("char_location", { document_index: 0, document_title: "A", file_id: null, start_char_index: 0 }),
  quoted("page_location", { document_index: 1, document_title: null, file_id: "file_1", start_page_number: 3 }),
  quoted("content_block_location", { document_index: 2, document_title: "C", start_block_index: 0 }),
  quoted("web_search_result_location", { url: "https://w.example", title: "W", encrypted_index: "e" }),
  quoted("search_result_location", { source: "https://s.example", title: "S", search_result_index: 0 }),
  quoted("search_result_location", { source: "notes/7", title: null, search_result_index: 1 })
]

const blocks: ReadonlyArray<readonly [text: string, citations: ReadonlyArray<unknown>]> = [
  ["Grüße 😀, ", []],
  ["the grass is green", locations],
  [" and ", []],
  ["the sky is blue", [locations[0]]],
  [".", []]
]

const claude = (content: ReadonlyArray<unknown>) => ({
  id: "msg_1",
  type: "message",
  role: "assistant",
  model: "m",
  content,
  stop_reason: "end_turn",
  usage: { input_tokens: 1, output_tokens: 1 }
})

const claudeStream = (): string =>
  typed("message_start", { message: { ...claude([]), stop_reason: null } }) +
  blocks
    .map(([text, citations], index) => {
      const block = { type: "text", text: "", ...(citations.length === 0 ? {} : { citations: [] }) }
      const middle = Math.floor(text.length / 2)
      const deltas = [
        { type: "text_delta", text: text.slice(0, middle) },
        ...citations.slice(0, 1).map((citation) => ({ type: "citations_delta", citation })),
        { type: "text_delta", text: text.slice(middle) },
        ...citations.slice(1).map((citation) => ({ type: "citations_delta", citation }))
      ]
      return (
        typed("content_block_start", { index, content_block: block }) +
        deltas.map((delta) => typed("content_block_delta", { index, delta })).join("") +
        typed("content_block_stop", { index })
      )
    })
    .join("") +
  typed("message_delta", { delta: { stop_reason: "end_turn" }, usage: { output_tokens: 2 } }) +
  typed("message_stop", {})

const green = { quote: "so it is", start: 10, end: 28, type: "source" }
const expectedOfClaude = [
  { ...green, sourceType: "document", index: 0, title: "A" },
  { ...green, sourceType: "document", index: 1, id: "file_1" },
  { ...green, sourceType: "document", index: 2, title: "C" },
  { ...green, sourceType: "url", url: "https://w.example", title: "W" },
  { ...green, sourceType: "url", url: "https://s.example", title: "S" },
  { ...green, sourceType: "document", id: "notes/7" },
  { ...green, sourceType: "document", index: 0, title: "A", start: 33, end: 48 }
]

describe("Anthropic", () => {
  it("citations of every location are sources, and belong to their block of text", () => {
    const answer = anthropic.whole(claude(blocks.map(([text, citations]) => ({ type: "text", text, citations }))))
    assert.deepStrictEqual<unknown>(answer.sources, expectedOfClaude)
    assert.strictEqual(answer.text.slice(10, 28), "the grass is green")
    assert.strictEqual(answer.text.slice(33, 48), "the sky is blue")
  })

  it("of a stream are told when their block has ended", () => {
    const { parts, response } = anthropic.stream(claudeStream())
    assert.deepStrictEqual<unknown>(response.sources, expectedOfClaude)
    const first = parts.findIndex(({ type }) => type === "source")
    assert.deepStrictEqual<unknown>(
      parts.slice(first - 1, first + 8).map(({ type }) => type),
      ["text-delta", ...expectedOfClaude.slice(0, 6).map(() => "source"), "text-delta", "text-delta"]
    )
  })

  it("are not held back until the next block begins", () => {
    const first = claudeStream().split("event: content_block_start").slice(0, 3).join("event: content_block_start")
    const types = anthropic.begin(first).map(({ type }) => type)
    assert.strictEqual(types.filter((type) => type === "source").length, locations.length)
  })

  it("without the end of a block, or of one that never began, none is lost", () => {
    const citation = locations[0]
    const text = (index: number, text: string) =>
      typed("content_block_delta", { index, delta: { type: "text_delta", text } })
    const cites = (index: number) =>
      typed("content_block_delta", { index, delta: { type: "citations_delta", citation } })
    const start = (index: number, citations: unknown = null) =>
      typed("content_block_start", { index, content_block: { type: "text", text: "", citations } })
    const end = typed("message_delta", { delta: { stop_reason: "end_turn" } }) + typed("message_stop", {})
    const open = anthropic.stream(start(0) + text(0, "red") + cites(0) + start(1) + text(1, "blue") + cites(1) + end)
    assert.deepStrictEqual(cited(open.response), [
      [0, "red"],
      [0, "blue"]
    ])
    assert.deepStrictEqual(cited(anthropic.stream(start(0, [citation]) + text(0, "red") + end).response), [[0, "red"]])
    assert.deepStrictEqual(cited(anthropic.stream(text(0, "red") + cites(0) + end).response), [[0, undefined]])
  })

  it("locations that are not known or name nothing are left out", () => {
    const odd = [null, 7, {}, { type: "paragraph_location", document_index: 0 }, { type: "char_location" }]
    const none = anthropic.whole(claude([{ type: "text", text: "a", citations: odd }]))
    assert.notProperty(none, "sources")
    const start = typed("content_block_start", { index: 0, content_block: { type: "text", text: "a" } })
    const deltas = odd.map((citation) =>
      typed("content_block_delta", { index: 0, delta: { type: "citations_delta", citation } })
    )
    assert.notProperty(anthropic.stream(start + deltas.join("") + typed("message_stop", {})).response, "sources")
  })
})

// ---------------------------------------------------------------------------------------------------------------------

const gemini = format(GenerateContent)

const candidate = (parts: ReadonlyArray<unknown>, rest: object = {}) => ({
  candidates: [{ content: { role: "model", parts }, index: 0, ...rest }]
})

const finished = { finishReason: "STOP" }

/** As Google counts: bytes, and 0 is left out. */
const segment = (text: string, words: string, rest: object = {}) => {
  const start = bytes(text.slice(0, text.indexOf(words))).length
  return { ...(start === 0 ? {} : { startIndex: start }), endIndex: start + bytes(words).length, text: words, ...rest }
}

const web = (name: string) => ({ web: { uri: `https://${name}.example`, title: name } })

const grounded = "Grüße 😀! Spanien gewann, sagt man. Österreich verlor."
const supports = (text: string) => [
  { segment: segment(text, "Spanien gewann, sagt man."), groundingChunkIndices: [0, 2], confidenceScores: [0.9, 0.8] },
  { segment: segment(text, "Österreich verlor."), groundingChunkIndices: [0] }
]
const groundingMetadata = {
  webSearchQueries: ["em finale"],
  groundingChunks: [web("a"), web("b"), web("c")],
  groundingSupports: supports(grounded)
}
const expectedOfGemini = [
  ["https://a.example", "Spanien gewann, sagt man."],
  ["https://a.example", "Österreich verlor."],
  ["https://b.example", undefined],
  ["https://c.example", "Spanien gewann, sagt man."]
]

const geminiStream = (): string =>
  ["Grüße 😀! Spa", "nien gewann, sagt man. Öster"].map((text) => event(candidate([{ text }]))).join("") +
  event(candidate([{ text: "reich verlor." }], { groundingMetadata: { groundingChunks: [web("a")] } })) +
  event(candidate([{ text: "" }], { ...finished, groundingMetadata }))

describe("Gemini", () => {
  it("grounding is sources, its bytes are places in the text", () => {
    const answer = gemini.whole(candidate([{ text: grounded }], { ...finished, groundingMetadata }))
    assert.deepStrictEqual(cited(answer), expectedOfGemini)
    assert.deepStrictEqual(answer.sources?.[2], {
      type: "source",
      sourceType: "url",
      url: "https://b.example",
      title: "b"
    })
  })

  it("of a stream is told at its end, once, though pieces say it again", () => {
    const { parts, response } = gemini.stream(geminiStream())
    assert.deepStrictEqual(cited(response), expectedOfGemini)
    assert.deepStrictEqual(
      parts.map(({ type }) => type),
      ["text-delta", "text-delta", "text-delta", "source", "source", "source", "source", "finish"]
    )
  })

  it("supports without chunks are those of the chunks before", () => {
    const body =
      event(
        candidate([{ text: grounded }], { groundingMetadata: { groundingChunks: groundingMetadata.groundingChunks } })
      ) + event(candidate([], { ...finished, groundingMetadata: { groundingSupports: supports(grounded) } }))
    assert.deepStrictEqual(cited(gemini.stream(body).response), expectedOfGemini)
  })

  it("supports that are said one after the other, the chunks again or none with them, all count", () => {
    const { groundingChunks } = groundingMetadata
    const [one, two] = supports(grounded)
    for (const again of [groundingChunks, []]) {
      const body =
        event(candidate([{ text: grounded }], { groundingMetadata: { groundingChunks, groundingSupports: [one] } })) +
        event(candidate([], { ...finished, groundingMetadata: { groundingChunks: again, groundingSupports: [two] } }))
      assert.deepStrictEqual(cited(gemini.stream(body).response), expectedOfGemini)
    }
  })

  it("the part is the one that has the words, whichever the segment names", () => {
    const parts = [
      { text: "I shall look it up.", thought: true },
      { text: "Grüße! " },
      { executableCode: { code: "1" } },
      { text: "Spanien gewann." }
    ]
    const one = (segment: object) => ({
      groundingChunks: [web("a")],
      groundingSupports: [{ segment, groundingChunkIndices: [0] }]
    })
    const placed = (segment: object) =>
      cited(gemini.whole(candidate(parts, { ...finished, groundingMetadata: one(segment) })))?.[0]?.[1]
    assert.strictEqual(placed({ partIndex: 3, endIndex: 7, text: "Spanien" }), "Spanien")
    assert.strictEqual(placed({ partIndex: 3, endIndex: 7 }), "Spanien")
    // Left out though there are others before it, as Google does.
    assert.strictEqual(placed({ startIndex: 0, endIndex: 7, text: "Spanien" }), "Spanien")
    assert.strictEqual(placed({ startIndex: 9, endIndex: 16, text: "Spanien" }), "Spanien")
    assert.strictEqual(placed({ endIndex: 8 }), "Grüße!")
    assert.isUndefined(placed({ startIndex: 1, endIndex: 8, text: "Spanien" }))
  })

  it("retrieved documents, maps and images", () => {
    const groundingChunks = [
      { retrievedContext: { uri: "https://r.example", documentName: "n", title: "R", text: "so it is" } },
      { retrievedContext: { uri: "gs://bucket/d.pdf", title: "D", text: "one" } },
      { retrievedContext: { uri: "gs://bucket/d.pdf", title: "D", text: "two" } },
      { retrievedContext: { documentName: "projects/p/documents/7", uri: "gs://x", title: "N" } },
      { retrievedContext: { title: "F", text: "words", fileSearchStore: "fileSearchStores/1" } },
      { maps: { uri: "https://maps.example", title: "M", placeId: "places/1" } },
      { image: { sourceUri: "https://i.example", imageUri: "https://i.example/a.png", title: "I" } }
    ]
    const { sources } = gemini.whole(
      candidate([{ text: "a" }], { ...finished, groundingMetadata: { groundingChunks } })
    )
    const page = { type: "source", sourceType: "url" }
    const document = { type: "source", sourceType: "document" }
    assert.deepStrictEqual<unknown>(sources, [
      { ...page, url: "https://r.example", title: "R", quote: "so it is" },
      { ...document, id: "gs://bucket/d.pdf", title: "D", quote: "one" },
      { ...document, id: "gs://bucket/d.pdf", title: "D", quote: "two" },
      { ...document, id: "projects/p/documents/7", title: "N" },
      { ...document, title: "F", quote: "words" },
      { ...page, url: "https://maps.example", title: "M" },
      { ...page, url: "https://i.example", title: "I" }
    ])
  })

  it("what is recited, as both APIs say it", () => {
    const text = "Grüße. To be, or not to be."
    const { endIndex, startIndex } = segment(text, "To be")
    for (const name of ["citationSources", "citations"]) {
      const citationMetadata = { [name]: [{ startIndex, endIndex, uri: "https://p.example", license: "" }, {}] }
      const answer = gemini.whole(candidate([{ text }], { ...finished, citationMetadata }))
      assert.deepStrictEqual(cited(answer), [["https://p.example", "To be"]], name)
    }
  })

  it("what is not known, names nothing or points nowhere is left out", () => {
    const odd = [
      null,
      7,
      [],
      {},
      { groundingChunks: "none", groundingSupports: {} },
      { groundingChunks: [null, 7, {}, { podcast: { uri: "https://x.example" } }, { web: {} }, { web: null }] },
      { groundingSupports: [null, {}, { segment: {}, groundingChunkIndices: [0, -1, "x", null] }] }
    ]
    for (const groundingMetadata of odd) {
      const rest = { ...finished, groundingMetadata, citationMetadata: groundingMetadata }
      assert.notProperty(gemini.whole(candidate([{ text: "a" }], rest)), "sources")
      assert.notProperty(gemini.stream(event(candidate([{ text: "a" }], rest))).response, "sources")
    }
    const wrong = [
      { segment: { endIndex: 99 }, groundingChunkIndices: [0] },
      { segment: { startIndex: 2, endIndex: 1 }, groundingChunkIndices: [0] },
      { segment: { startIndex: "?", endIndex: "!" }, groundingChunkIndices: [0] },
      { segment: { endIndex: 1 }, groundingChunkIndices: [9] }
    ]
    const groundingMetadata = { groundingChunks: [web("a")], groundingSupports: wrong }
    assert.deepStrictEqual(cited(gemini.whole(candidate([{ text: "a" }], { ...finished, groundingMetadata }))), [
      ["https://a.example", undefined]
    ])
  })
})

// ---------------------------------------------------------------------------------------------------------------------

const streams = {
  responses: { format: responses, body: searchStream() },
  "chat completions": {
    format: chat,
    body:
      delta({ role: "assistant", content: "" }, perplexity) +
      delta({ content: "😀 A " }, perplexity) +
      delta({ content: "red one", annotations: [annotated("https://r.example", 4, 7)] }, perplexity, "stop") +
      done
  },
  anthropic: { format: anthropic, body: claudeStream() },
  gemini: { format: gemini, body: geminiStream() }
}

describe("streams with sources", () => {
  for (const [name, { body, format }] of Object.entries(streams)) {
    it(`${name}: chunking changes nothing, nor their order among the texts`, () => {
      const encoded = bytes(body)
      const once = format.stream(body)
      assert.isAbove(once.response.sources?.length ?? 0, 1)
      FastCheck.assert(
        FastCheck.property(FastCheck.array(FastCheck.nat(encoded.length), { maxLength: 20 }), (cuts) => {
          const edges = [0, ...cuts, encoded.length].toSorted((a, b) => a - b)
          const pieces = edges.slice(1).map((end, index) => encoded.slice(edges[index], end))
          assert.deepStrictEqual(play(format.decoder(), pieces), once)
        })
      )
      assert.deepStrictEqual(
        play(
          format.decoder(),
          [...encoded].map((byte) => Uint8Array.of(byte))
        ),
        once
      )
      assert.deepStrictEqual(play(format.decoder(), [bytes(body.replace(/\n/g, "\r\n"))]), once)
    })
  }

  it("places are right in texts of any characters, wherever they begin", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(FastCheck.string({ unit: "grapheme", minLength: 1, maxLength: 400 }), { minLength: 3 }),
        FastCheck.nat(),
        FastCheck.nat(),
        (words, one, other) => {
          const text = words.join("")
          const points = [...text]
          const start = one % points.length
          const end = start + 1 + (other % (points.length - start))
          const expected = points.slice(start, end).join("")
          const whole = chat.whole(said({ content: text, annotations: [annotated("https://r.example", start, end)] }))
          assert.deepStrictEqual(cited(whole), [["https://r.example", expected]])
          const deltas = words.map((content) => delta({ content })).join("")
          const late = delta({ annotations: [annotated("https://r.example", start, end)] }, {}, "stop")
          assert.deepStrictEqual(cited(chat.stream(deltas + late + done).response), [["https://r.example", expected]])
          const before = bytes(points.slice(0, start).join("")).length
          const support = { startIndex: before, endIndex: before + bytes(expected).length }
          const groundingMetadata = {
            groundingChunks: [web("a")],
            groundingSupports: [{ segment: support, groundingChunkIndices: [0] }]
          }
          assert.deepStrictEqual(cited(gemini.whole(candidate([{ text }], { ...finished, groundingMetadata }))), [
            ["https://a.example", expected]
          ])
        }
      ),
      { numRuns: 200 }
    )
  })

  it("a place that ends before a pair of surrogates does so wherever the text is measured", () => {
    for (let length = 1020; length < 1030; length++) {
      const content = `${"x".repeat(length)}😀y`
      for (const [start, end] of [
        [0, length],
        [length, length + 1],
        [length + 1, length + 2]
      ] as const) {
        const answer = chat.whole(said({ content, annotations: [annotated("https://r.example", start, end)] }))
        assert.deepStrictEqual(cited(answer), [["https://r.example", [...content].slice(start, end).join("")]])
      }
    }
  })

  it("very many of them take time in proportion", () => {
    const time = (count: number): number => {
      const pieces = Array.from({ length: count }, (_, index) => {
        const annotation = page(`https://${index}.example`, index * 40, index * 40 + 10)
        return (
          typed("response.output_text.delta", { ...at, delta: "😀 forty characters of text with a source" }) +
          typed("response.output_text.annotation.added", { ...at, annotation })
        )
      })
      const encoded = [bytes(pieces.join("") + typed("response.completed", { response: answered() }))]
      const before = process.cpuUsage()
      assert.lengthOf(play(responses.decoder(), encoded).response.sources ?? [], count)
      return process.cpuUsage(before).user / 1_000
    }
    time(1000)
    const small = Math.min(time(2000), time(2000), time(2000))
    const large = Math.min(time(20_000), time(20_000))
    assert.isBelow(large, Math.max(small, 5) * 40, `${small} ms for 2000, ${large} ms for 20000`)
  })
})

describe("answers with sources", () => {
  const question = { messages: [ChatMessage.user("?")] }
  const source: Source = { type: "source", sourceType: "url", url: "https://a.example", start: 0, end: 2 }

  it("go back to each provider as they would without", () => {
    const encoders: ReadonlyArray<readonly [Protocol.Protocol, LlmResponse.LlmResponse]> = [
      [Responses.make({ provider: "p" }), streamed(streams.responses)],
      [ChatCompletions.make({ provider: "p" }), streamed(streams["chat completions"])],
      [AnthropicMessages.make({ provider: "p" }), streamed(streams.anthropic)],
      [GenerateContent.make({ provider: "p" }), streamed(streams.gemini)]
    ]
    for (const [protocol, answer] of encoders) {
      const { sources, ...plain } = answer
      assert.isAbove(sources?.length ?? 0, 0)
      const encode = (response: LlmResponse.LlmResponse) =>
        right(
          protocol.encode(
            { messages: [...question.messages, LlmResponse.toMessage(response), ChatMessage.user("And?")] },
            { model: "m", stream: false, method: "generate" }
          )
        )
      assert.strictEqual(encode(answer), encode(plain))
      for (const { quote, title, url } of (sources ?? []).map((one) => ({ url: "", quote: "", title: "", ...one }))) {
        if (url !== "" && !answer.text.includes(url)) assert.notInclude(encode(answer), url)
        if (quote !== "") assert.notInclude(encode(answer), `"${quote}"`)
        assert.notInclude(encode(answer), `"title":"${title}"`)
      }
    }
  })

  const streamed = ({ body, format }: { readonly body: string; readonly format: typeof chat }) =>
    format.stream(body).response

  it("are data: they come back from JSON as they were", () => {
    for (const stream of Object.values(streams)) {
      const answer = streamed(stream)
      const json = Schema.decodeSync(Schema.parseJson(LlmResponse.LlmResponse))
      assert.deepStrictEqual(json(JSON.stringify(answer)), JSON.parse(JSON.stringify(answer)))
    }
  })

  it.effect("of a scripted model are those of the script, streamed or not", () =>
    Effect.gen(function* () {
      const whole = yield* Llm.generate(question)
      assert.deepStrictEqual(whole.sources, [source])
      const parts = yield* Stream.runCollect(Llm.stream(question))
      assert.deepStrictEqual([...parts].at(-2), source)
      assert.notProperty(yield* Llm.generate(question), "sources")
    }).pipe(
      Effect.provide(
        LlmTest.layerScripted({ replies: [{ text: "hi", sources: [source] }, { text: "hi", sources: [source] }, "hi"] })
      )
    )
  )

  it.effect("go through the loop of tools, with the answer that has them", () =>
    Effect.gen(function* () {
      const tool = LlmTool.make("look", { parameters: Schema.Struct({}) })
      const handlers = [LlmToolLoop.handler(tool, () => Effect.succeed("found"))]
      const parts = yield* Stream.runCollect(LlmToolLoop.stream(question, handlers))
      const types = [...parts].map(({ type }) => type)
      assert.include(types, "source")
      assert.isBelow(types.indexOf("tool-result"), types.indexOf("source"))
      const result = yield* LlmToolLoop.run(question, handlers)
      assert.deepStrictEqual(
        result.steps.map(({ response }) => response.sources),
        [undefined, [source]]
      )
      const end = [...parts].findLast((part) => part.type === "step")
      assert.deepStrictEqual(end?.step.response.sources, [source])
    }).pipe(
      Effect.provide(
        LlmTest.layerScripted({
          replies: [1, 2].flatMap(() => [{ toolCalls: [{ name: "look" }] }, { text: "hi", sources: [source] }])
        })
      )
    )
  )
})
