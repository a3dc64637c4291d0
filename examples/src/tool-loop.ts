/**
 * A model with tools: it calls them, they run at once, a failure is answered to it like a result, and the loop ends with an
 * answer. `OPENAI_API_KEY` with `OPENAI_MODEL` chooses a real model; without it a scripted one calls the same tools.
 */
import { NodeRuntime } from "@effect/platform-node"
import { ChatMessage, HttpTransport } from "@underlay/core"
import { LlmTest, LlmTool, LlmToolLoop, OpenAi } from "@underlay/llm"
import { Config, ConfigProvider, Console, Effect, Layer, Option, Schema, Stream } from "effect"

const City = Schema.Struct({ city: Schema.String })

const weather = LlmToolLoop.handler(
  LlmTool.make("weather", { description: "The weather of a city at present", parameters: City }),
  ({ city }) =>
    city === "Atlantis" ? Effect.fail(`${city} is not on the map`) : Effect.succeed({ city, celsius: city.length * 3 })
)

const program = LlmToolLoop.stream(
  { messages: [ChatMessage.user("Where is it warmest: in Lima, in Reykjavik or in Atlantis? Ask for each.")] },
  [weather],
  { maxSteps: 5, concurrency: 3 }
).pipe(
  Stream.runForEach((part) => {
    switch (part.type) {
      case "text-delta":
        return Effect.sync(() => process.stdout.write(part.text))
      case "tool-call":
        return Console.log(`asks for ${part.name} ${JSON.stringify(part.arguments)}`)
      case "tool-result":
        return Console.log(`is told ${JSON.stringify(part.result)}${part.isError === true ? " (an error)" : ""}`)
      case "end":
        return Console.log(`\n${part.result.ended} after ${part.result.steps.length} steps`)
      default:
        return Effect.void
    }
  })
)

const call = (city: string) => ({ name: "weather", arguments: { city } })

const Scripted = LlmTest.layerScripted({
  replies: [
    { toolCalls: [call("Lima"), call("Reykjavik"), call("Atlantis")] },
    "In Reykjavik, which is surprising; Atlantis is not on the map."
  ]
})

const Environment = Layer.setConfigProvider(ConfigProvider.constantCase(ConfigProvider.fromEnv()))

const Model = Layer.unwrapEffect(
  Effect.map(Config.option(Config.redacted("OPENAI_API_KEY")), (key) =>
    Option.isNone(key) ? Scripted : OpenAi.layerConfig().pipe(Layer.provide([HttpTransport.layerUndici(), Environment]))
  )
)

program.pipe(Effect.provide(Model), NodeRuntime.runMain)
