/**
 * A server of the two formats of OpenAI on the loopback, in a process of its own, so that its CPU is nobody's figure. The
 * model's name says what it answers: `chunks-2000` is a streamed answer of 2,000 pieces, `packets-2000` the same with each
 * event in a packet of its own. Prints its port, and ends with its parent.
 */
import * as Http from "node:http"
import type { AddressInfo } from "node:net"

const words = ["The ", "quick ", "brown ", "fox ", "jumps ", "over ", "the ", "lazy ", "dog. "]
const word = (index: number): string => words[index % words.length] ?? ""
const usage = { prompt_tokens: 12, completion_tokens: 300, total_tokens: 312 }
const responsesUsage = {
  input_tokens: 12,
  input_tokens_details: { cached_tokens: 0 },
  output_tokens: 300,
  output_tokens_details: { reasoning_tokens: 0 },
  total_tokens: 312
}
/** About what a model answers in a paragraph. */
const answer = Array.from({ length: 300 }, (_, index) => word(index)).join("")

const chat = (content: string) => ({
  id: "chatcmpl-1",
  object: "chat.completion",
  created: 1760000000,
  model: "bench",
  choices: [
    { index: 0, message: { role: "assistant", content, refusal: null }, logprobs: null, finish_reason: "stop" }
  ],
  usage,
  system_fingerprint: "fp_1"
})

const message = (content: string) => ({
  id: "msg_1",
  type: "message",
  status: "completed",
  role: "assistant",
  content: [{ type: "output_text", annotations: [], logprobs: [], text: content }]
})

const response = (status: string, output: ReadonlyArray<unknown>) => ({
  id: "resp_1",
  object: "response",
  created_at: 1760000000,
  status,
  background: false,
  error: null,
  incomplete_details: null,
  instructions: null,
  max_output_tokens: null,
  model: "bench",
  output,
  parallel_tool_calls: true,
  previous_response_id: null,
  reasoning: { effort: null, summary: null },
  service_tier: "default",
  store: false,
  temperature: 1,
  text: { format: { type: "text" }, verbosity: "medium" },
  tool_choice: "auto",
  tools: [],
  top_logprobs: 0,
  top_p: 1,
  truncation: "disabled",
  usage: status === "completed" ? responsesUsage : null,
  user: null,
  metadata: {}
})

const chatEvent = (delta: unknown, finish: string | null): string =>
  `data: ${JSON.stringify({
    id: "chatcmpl-1",
    object: "chat.completion.chunk",
    created: 1760000000,
    model: "bench",
    service_tier: "default",
    system_fingerprint: "fp_1",
    choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
    usage: null,
    obfuscation: "a1b2c3"
  })}\n\n`

const chatLast = `data: ${JSON.stringify({ ...chat(""), object: "chat.completion.chunk", choices: [] })}\n\ndata: [DONE]\n\n`

let sequence = 0
const event = (type: string, fields: object): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: sequence++, ...fields })}\n\n`

function* chatEvents(count: number): Generator<string> {
  yield chatEvent({ role: "assistant", content: "", refusal: null }, null)
  for (let index = 0; index < count; index++) yield chatEvent({ content: word(index) }, null)
  yield chatEvent({}, "stop")
  yield chatLast
}

function* responsesEvents(count: number): Generator<string> {
  const at = { item_id: "msg_1", output_index: 0, content_index: 0 }
  yield event("response.created", { response: response("in_progress", []) })
  yield event("response.output_item.added", {
    output_index: 0,
    item: { id: "msg_1", type: "message", status: "in_progress", role: "assistant", content: [] }
  })
  yield event("response.content_part.added", {
    ...at,
    part: { type: "output_text", annotations: [], logprobs: [], text: "" }
  })
  for (let index = 0; index < count; index++) {
    yield event("response.output_text.delta", { ...at, delta: word(index), logprobs: [], obfuscation: "a1b2c3" })
  }
  // The text is said once more at the end, which for a very long one would only measure that.
  const text = count > 10_000 ? "" : Array.from({ length: count }, (_, index) => word(index)).join("")
  yield event("response.output_text.done", { ...at, text, logprobs: [] })
  yield event("response.output_item.done", { output_index: 0, item: message(text) })
  yield event("response.completed", { response: response("completed", [message(text)]) })
}

const server = Http.createServer((incoming, outgoing) => {
  const chunks: Array<Buffer> = []
  incoming.on("data", (chunk: Buffer) => chunks.push(chunk))
  incoming.on("end", () => {
    const body = JSON.parse(Buffer.concat(chunks).toString("utf8") || "{}") as { model?: string; stream?: boolean }
    const isChat = incoming.url?.includes("chat/completions") ?? false
    if (body.stream !== true) {
      outgoing.writeHead(200, { "content-type": "application/json" })
      outgoing.end(JSON.stringify(isChat ? chat(answer) : response("completed", [message(answer)])))
      return
    }
    const [, form, number] = /^(chunks|packets)-(\d+)$/.exec(body.model ?? "") ?? []
    const count = Number(number ?? 100)
    outgoing.writeHead(200, { "content-type": "text/event-stream" })
    outgoing.socket?.setNoDelay(true)
    const events = isChat ? chatEvents(count) : responsesEvents(count)
    // Coalesced as a busy connection does it, or each by itself.
    const next = (): void => {
      for (;;) {
        let text = ""
        let ended = false
        for (let n = form === "packets" ? 1 : 50; n > 0; n--) {
          const { done, value } = events.next()
          if (done === true) {
            ended = true
            break
          }
          text += value
        }
        const more = text === "" || outgoing.write(text)
        if (ended) return void outgoing.end()
        if (!more) return void outgoing.once("drain", next)
        // Not at once: whoever reads would find several of them together.
        if (form === "packets") return void setTimeout(next, 10)
      }
    }
    outgoing.on("error", () => {})
    next()
  })
})
// A connection that the server closes just when a client takes it up again fails the request, which is nobody's figure:
// raw `fetch` does not send it again.
server.keepAliveTimeout = 600_000
server.listen(0, "127.0.0.1", () => {
  console.log((server.address() as AddressInfo).port)
})
process.stdin.resume()
process.stdin.on("end", () => process.exit(0))
