import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import * as Support from "./support.ts"

const read = (...path: ReadonlyArray<string>) =>
  Effect.sync(() => Fs.readFileSync(Path.join(Support.folder, ...path), "utf8"))

layer(Support.service(), { timeout: "60 seconds", excludeTestServices: true })("the README", (it) => {
  it.effect("every curl line of it is answered by the service, and every operation of the API has one", () =>
    Effect.gen(function* () {
      const base = yield* Support.origin
      const readme = yield* read("README.md")
      const lines = Array.from(readme.matchAll(/^curl (.*)$/gm), (match) => match[1] ?? "")
      const id = yield* Support.openSession(base)
      const called = new Set<string>()
      for (const line of lines) {
        const path = /http:\/\/127\.0\.0\.1:3000(\S+)/.exec(line)?.[1] ?? ""
        const method = /-X POST/.test(line) ? "POST" : "GET"
        called.add(`${method.toLowerCase()} ${path.replace("$ID", "{id}")}`)
        const reply = yield* Support.call(base, method, path.replace("$ID", id), /-d '([^']*)'/.exec(line)?.[1])
        assert.isTrue(reply.status === 200 || reply.status === 201, `${line}: ${reply.status}`)
      }
      const { body } = yield* Support.call(base, "GET", "/openapi.json")
      const { paths } = body as { readonly paths: Readonly<Record<string, object>> }
      const operations = Object.entries(paths).flatMap(([path, of]) => Object.keys(of).map((one) => `${one} ${path}`))
      assert.isAtLeast(operations.length, 4)
      for (const operation of operations) assert.isTrue(called.has(operation), operation)
    })
  )

  it.effect("every variable of the settings files is in it, with its default, and no other", () =>
    Effect.gen(function* () {
      const readme = yield* read("README.md")
      const files = yield* Effect.forEach(["db", "cache", "llm", "vector", "external"], (name) =>
        read("resources", `application-${name}.yaml`)
      )
      const variables = Array.from(files.join("\n").matchAll(/\$\{([A-Z_]+)(?::([^}]*))?\}/g))
      assert.isAtLeast(variables.length, 15)
      for (const [, name, otherwise] of variables) {
        assert.include(readme, name ?? "")
        if (otherwise !== undefined && !/^https:/.test(otherwise)) assert.include(readme, `\`${otherwise}\``)
      }
      const known = new Set(variables.map((match) => match[1]))
      for (const [, name] of readme.matchAll(/`([A-Z]+_[A-Z_]+)[`=]/g)) assert.isTrue(known.has(name), name)
    })
  )
})
