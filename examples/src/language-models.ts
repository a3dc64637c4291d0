/**
 * Language models and embeddings by name: `resources/application-llm.yaml` says which there are, and what is missing of
 * them is told with its place. A kind of one's own stands beside those of the package. `LLM_DEFAULT=claude` with
 * `ANTHROPIC_API_KEY` asks a real one; the code is the same.
 */
import * as Path from "node:path"
import { NodeFileSystem, NodeRuntime } from "@effect/platform-node"
import { ChatMessage, Embeddings, HttpTransport, Settings } from "@underlay/core"
import { Llm, LlmProviders, LlmTest } from "@underlay/llm"
import { Config, Console, Context, Effect, Layer } from "effect"

const scripted = LlmProviders.kind({
  kind: "scripted",
  settings: Config.all({ reply: Config.string("reply") }),
  make: ({ reply }) =>
    Effect.map(Layer.build(LlmTest.layerScripted({ replies: [], otherwise: reply })), (context) =>
      Context.get(context, Llm.Llm)
    )
})

const program = Effect.gen(function* () {
  const providers = yield* LlmProviders.LlmProviders
  yield* providers.check.pipe(
    Effect.catchTag("LlmProvidersError", ({ problems }) =>
      Effect.forEach(problems, (problem) => Console.log(`not ready: ${problem}`), { discard: true })
    )
  )

  const answer = yield* Llm.generate({
    messages: [ChatMessage.user("In one sentence: why does Redis refuse connections?")]
  }).pipe(Effect.provide(LlmProviders.layerDefault))
  yield* Console.log(answer.text)

  const { dimensions } = yield* Effect.provide(Embeddings.Embeddings, LlmProviders.layerEmbeddingsOf("documents"))
  yield* Console.log(`vectors of documents have ${dimensions} numbers`)

  for (const { kind, name, state } of yield* providers.list) yield* Console.log(`${name} (${kind}): ${state}`)
  yield* Console.log(`not used: ${(yield* providers.unused).join(", ")}`)
})

const SettingsFromFiles = Settings.layer({ directory: Path.join(import.meta.dirname, "../resources") }).pipe(
  Layer.provide(NodeFileSystem.layer)
)

const Providers = LlmProviders.layer({ kinds: [scripted] }).pipe(
  Layer.provide([HttpTransport.layerUndici(), SettingsFromFiles])
)

program.pipe(Effect.provide(Providers), NodeRuntime.runMain)
