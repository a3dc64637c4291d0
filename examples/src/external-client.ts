/**
 * A watched client of an outside service: one span a call with its attempts inside, retries that honour `Retry-After`,
 * a circuit breaker, and answers checked by a schema. The service here is a small one on loopback that misbehaves.
 */
import { createServer } from "node:http"
import { HttpRouter, HttpServer, HttpServerResponse } from "@effect/platform"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { ExternalHttp, HttpTransport } from "@underlay/core"
import { Console, Duration, Effect, Layer, Ref, Schema } from "effect"

const Forecast = Schema.Struct({ city: Schema.String, celsius: Schema.Number })

/** Answers 429 with a `Retry-After`, then 500, then well; `/broken` is always down; `/other` has another shape. */
const Service = Layer.unwrapEffect(
  Effect.map(Ref.make(0), (asked) =>
    HttpRouter.empty.pipe(
      HttpRouter.get(
        "/forecast",
        Effect.flatMap(
          Ref.updateAndGet(asked, (n) => n + 1),
          (n) =>
            n === 1
              ? HttpServerResponse.text("slow down", { status: 429, headers: { "retry-after": "0" } })
              : n === 2
                ? HttpServerResponse.text("oops", { status: 500 })
                : HttpServerResponse.json({ city: "Lima", celsius: 19 })
        )
      ),
      HttpRouter.get("/broken", HttpServerResponse.text("down", { status: 503 })),
      HttpRouter.get("/other", HttpServerResponse.json({ city: "Lima", kelvin: 292 })),
      HttpServer.serve()
    )
  )
)

const program = Effect.gen(function* () {
  const address = yield* HttpServer.addressWith((at) =>
    Effect.succeed(at._tag === "TcpAddress" ? `http://127.0.0.1:${at.port}` : "")
  )
  const weather = yield* ExternalHttp.make({
    service: "Weather",
    baseUrl: address,
    policy: { timeout: "5 seconds", retry: { attempts: 3, base: "20 millis" } }
  })
  const get = (path: string) => Effect.flatMap(weather.client.get(path), (response) => response.json)

  const forecast = yield* weather.call("forecast", get("/forecast"), { schema: Forecast })
  yield* Console.log(`the third attempt was answered: ${forecast.city}, ${forecast.celsius} degrees`)

  const other = yield* weather.call("forecast", get("/other"), { schema: Forecast }).pipe(Effect.flip)
  yield* Console.log(`a forecast of another shape is ${other._tag}: ${other.message}`)

  // Five failures in a row open the circuit: after that nothing is sent any more.
  yield* Effect.ignore(weather.call("broken", get("/broken"), { retries: 4, retryDelay: "1 millis" }))
  const refused = yield* weather.call("broken", get("/broken")).pipe(Effect.flip)
  if (refused._tag === "CircuitOpen") {
    yield* Console.log(`the circuit breaker is open, try again in ${Duration.format(refused.retryAfter)}`)
  }
})

program.pipe(
  Effect.scoped,
  Effect.provide(
    Service.pipe(
      Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" })),
      Layer.merge(HttpTransport.layerUndici())
    )
  ),
  NodeRuntime.runMain
)
