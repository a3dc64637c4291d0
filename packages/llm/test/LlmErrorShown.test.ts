/** Nothing that prints an error of a language model prints a key, a prompt, an answer or a provider's words. */
import * as NodeHttp from "node:http"
import {
  FetchHttpClient,
  type HttpClient,
  HttpClientError,
  HttpClientRequest,
  HttpClientResponse
} from "@effect/platform"
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage, HttpTransport, Withheld } from "@underlay/core"
import { Llm, LlmError, type LlmResponse, OpenAi } from "@underlay/llm"
import * as Shown from "@underlay/servers/Shown"
import { Duration, Effect, Layer, Logger, LogLevel, Redacted, Schema, Stream } from "effect"
import { chunk, json, serve, sse } from "./server.ts"

const secret = "hush"
const ask: Llm.LlmRequest = { messages: [ChatMessage.user(`the question ${secret}`)] }

const errorOf = (more: Partial<ConstructorParameters<typeof LlmError.LlmError>[0]>) =>
  new LlmError.LlmError({
    reason: "MalformedResponse",
    method: "generate",
    provider: "openai",
    model: "gpt-test",
    status: 400,
    code: "bad_value",
    retryable: false,
    midStream: false,
    ...more
  })

const request = HttpClientRequest.post(`http://127.0.0.1/${secret}?key=${secret}`).pipe(
  HttpClientRequest.bodyText(secret, "application/json"),
  HttpClientRequest.setHeaders({ authorization: `Bearer ${secret}`, "x-other": secret })
)

const thrownBy = (f: () => unknown): unknown => {
  try {
    f()
  } catch (error) {
    return error
  }
  return assert.fail("nothing was thrown")
}

const unfit = Effect.runSync(Effect.flip(Schema.decodeUnknown(Schema.Struct({ age: Schema.Number }))({ age: secret })))

const causes: Record<string, unknown> = {
  "JSON that is none": thrownBy(() => JSON.parse(`${secret} is the answer`)),
  "what did not fit a schema": unfit,
  "an address that is none": thrownBy(() => new URL(`http://${secret}:${secret}@:x`)),
  "a header that cannot be sent": thrownBy(() => new Headers({ authorization: `Bearer ${secret}\n${secret}` })),
  "a header that Node does not take": thrownBy(() => NodeHttp.validateHeaderValue(secret, `${secret}\n${secret}`)),
  "a failure of undici": Object.assign(new TypeError("fetch failed"), {
    cause: Object.assign(new Error(`other side closed ${secret}`), { code: "UND_ERR_SOCKET", socket: { secret } })
  }),
  "a body that undici refused": Object.assign(new Error(secret), {
    code: "UND_ERR_RESPONSE",
    headers: { "x-other": secret },
    body: secret
  }),
  "a request that failed": new HttpClientError.RequestError({ request, reason: "Transport", cause: new Error(secret) }),
  "a response that is refused": new HttpClientError.ResponseError({
    request,
    response: HttpClientResponse.fromWeb(request, new Response(secret, { status: 400 })),
    reason: "StatusCode"
  }),
  "an answer of a provider's own library": Object.assign(new Error(`400 ${secret}`), {
    status: 400,
    error: { message: secret },
    request: { headers: { authorization: secret } }
  })
}

describe("the cause of an LlmError", () => {
  for (const [what, cause] of Object.entries(causes)) {
    it(`${what}: nothing of it is shown, and it is there as original`, () => {
      const error = errorOf({ cause })
      for (const text of Shown.everyWay(error)) assert.notInclude(text, secret)
      assert.strictEqual(error.original, cause)
      assert.strictEqual(error.with({ status: 500 }).original, cause)
      assert.strictEqual(Withheld.originalOf(error.cause), cause)
      const clone = structuredClone(error)
      assert.instanceOf(clone, Error)
    })
  }

  it("an error within ours is seen behind it: a limit of our own, and the error of a stream", () => {
    assert.isTrue(errorOf({ cause: { rejection: true } }).rejection)
    const inner = errorOf({ reason: "Network" })
    assert.strictEqual(errorOf({ cause: inner }).cause, inner)
    assert.isUndefined(errorOf({}).original)
  })
})

const partial: LlmResponse.PartialResponse = { text: secret, reasoning: secret, toolCalls: [] }

describe("the other fields of an LlmError", () => {
  it("that hold an answer or the provider's words are not shown, and can be read", () => {
    const error = errorOf({ partial, providerMessage: secret, retryAfter: Duration.seconds(1) })
    for (const text of Shown.everyWay(error)) assert.notInclude(text, secret)
    const sent: unknown = JSON.parse(JSON.stringify(Schema.encodeSync(LlmError.LlmError)(error)))
    const received = Schema.decodeUnknownSync(LlmError.LlmError)(sent)
    for (const text of Shown.everyWay(received)) assert.notInclude(text, secret)
    for (const each of [error, error.with({ status: 500 }), received]) {
      assert.strictEqual(each.providerMessage, secret)
      assert.strictEqual(each.partial?.text, secret)
    }
  })
})

const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient.HttpClient>]> = [
  ["fetch", FetchHttpClient.layer],
  ["undici", NodeHttpClient.layerUndici],
  ["HttpTransport", Layer.orDie(HttpTransport.layerUndici())],
  ["node:http", NodeHttpClient.layer]
]

const echo = {
  error: {
    message: `Incorrect API key provided: ${secret}`,
    type: `the ${secret}`,
    param: secret,
    code: `no ${secret}`
  }
}

const faults: Record<string, Parameters<typeof serve>[0]> = {
  "an answer that is not JSON": ({ response }) => {
    response.writeHead(200, { "content-type": "application/json" })
    response.end(`${secret} is the answer`)
  },
  "an answer of another shape": ({ response }) => json(response, 200, { choices: secret, output: secret }),
  "a refusal that quotes the key and the question": ({ response }) => json(response, 401, echo),
  "a refusal in plain text": ({ response }) => {
    response.writeHead(400, { "content-type": "text/plain" })
    response.end(secret)
  },
  "a connection that is cut before an answer": ({ response }) => void response.socket?.destroy(),
  "a body that breaks off": ({ response }) => {
    response.writeHead(200, { "content-type": "application/json", "content-length": "1000" })
    response.write(`{"choices": "${secret}`)
    setTimeout(() => response.destroy(), 20)
  },
  "a stream that breaks off": ({ response }) => {
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.write(chunk({ content: secret }))
    setTimeout(() => response.destroy(), 20)
  },
  "a stream with an event that is not JSON": ({ response }) =>
    sse(response, `${chunk({ content: secret })}data: ${secret}\n\n`)
}

const failing = (url: string, key: string) => {
  const layer = OpenAi.layer({ apiKey: Redacted.make(key), model: "gpt-test", baseUrl: url, retry: false })
  const asked = [Effect.asVoid(Llm.generate(ask)), Stream.runDrain(Llm.stream(ask))]
  const failures = Effect.forEach(asked, (each) => Effect.flip(Effect.provide(each, layer)))
  return Logger.withMinimumLogLevel(failures, LogLevel.None)
}

for (const [client, layer] of clients) {
  describe(`what a call fails with, over ${client}`, () => {
    for (const [what, handle] of Object.entries(faults)) {
      it.scopedLive(`${what}: shows neither key nor question nor answer`, () =>
        Effect.gen(function* () {
          const server = yield* serve(handle)
          for (const error of yield* failing(server.url, `sk-${secret}`)) {
            for (const text of Shown.everyWay(error)) assert.notInclude(text, secret)
          }
        }).pipe(Effect.provide(layer))
      )
    }

    it.scopedLive("a key that no header can have is not shown", () =>
      Effect.gen(function* () {
        for (const error of yield* failing("http://127.0.0.1:1", `sk-${secret}\n${secret}`)) {
          for (const text of Shown.everyWay(error)) assert.notInclude(text, secret)
        }
      }).pipe(Effect.provide(layer))
    )
  })
}
