import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { assert, beforeAll, describe, it } from "@effect/vitest"
import { LlmTest } from "@underlay/llm"
import * as Need from "@underlay/servers/Need"
import { Either } from "effect"
import { answered, streamed } from "./server.ts"

const root = Path.resolve(import.meta.dirname, "../../..")

const run = (...args: ReadonlyArray<string>) => {
  const child = spawnSync(process.execPath, ["--import", "tsx", Path.join(root, "scripts/corpus.ts"), ...args], {
    cwd: root,
    encoding: "utf8"
  })
  return { code: child.status, output: `${child.stdout}${child.stderr}` }
}

const recording = (body: string, stream: boolean, status = 200): LlmTest.Recording => ({
  provider: "openai",
  api: "chat/completions",
  stream,
  response: { status, headers: { "content-type": stream ? "text/event-stream" : "application/json" }, body }
})

const write = (file: string, value: unknown): void => {
  Fs.mkdirSync(Path.dirname(file), { recursive: true })
  Fs.writeFileSync(file, typeof value === "string" ? value : JSON.stringify(value))
}

const expectedOf = (value: LlmTest.Recording) => Either.getOrThrow(LlmTest.canonical(value))

describe("the corpus script", () => {
  const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "corpus-"))
  const whole = recording(answered("Grüße"), false)
  const stream = recording(streamed("Hel", "lo 🌍", "!"), true)

  beforeAll(() => {
    write(Path.join(folder, "good/a/whole.json"), whole)
    write(Path.join(folder, "good/expected/a/whole.json"), expectedOf(whole))
    write(Path.join(folder, "good/b/stream.json"), stream)
    write(Path.join(folder, "good/b/expected/stream.json"), expectedOf(stream))
    write(Path.join(folder, "good/index.json"), [{ file: "a/whole.json" }])
    write(Path.join(folder, "good/notes.json"), "\uFEFF{}")
    Fs.symlinkSync(Path.join(folder, "good"), Path.join(folder, "good/b/circle"))
    Fs.symlinkSync(Path.join(folder, "nowhere"), Path.join(folder, "good/nowhere"))
    write(Path.join(folder, "bad/stream.json"), stream)
    write(Path.join(folder, "bad/expected/stream.json"), { ...expectedOf(stream), text: "Hello 🌎!", finish: "length" })
    write(Path.join(folder, "bad/lonely.json"), whole)
    write(Path.join(folder, "bad/broken.json"), "{")
    write(Path.join(folder, "bad/odd.json"), { response: {} })
    write(Path.join(folder, "bad/foreign.json"), { ...whole, api: "x", response: { ...whole.response, body: "{}" } })
    write(Path.join(folder, "bad/expected/foreign.json"), expectedOf(whole))
    write(Path.join(folder, "unread/broken.json"), "{")
    write(Path.join(folder, "empty/expected/whole.json"), expectedOf(whole))
    return () => Fs.rmSync(folder, { recursive: true, force: true })
  })

  it("ends with 0 where every recording is as expected, however its stream is chunked or cut", () => {
    const args = ["--chunk", "random", "--seed", "7", "--cut", "--line-end", "crlf"]
    const { code, output } = run(Path.join(folder, "good"), ...args)
    assert.match(output, /2 recordings .*1 streams cut, seed 7; all as expected/)
    assert.strictEqual(code, 0)
  })

  it("finds the expected results above the folder that it is given", () => {
    const { code, output } = run(Path.join(folder, "good/a"))
    assert.match(output, /1 recordings .*all as expected/)
    assert.strictEqual(code, 0)
  })

  it("ends with 1 where anything differs, lacks its expected result or cannot be read, and shows it in a table", () => {
    const { code, output } = run(Path.join(folder, "bad"))
    assert.strictEqual(code, 1)
    assert.match(output, /^recording +where +expected +got$/m)
    assert.match(output, /^stream +text +"Hello 🌎!" +"Hello 🌍!"$/m)
    assert.match(output, /^stream +finish +"length" +"stop"$/m)
    assert.match(output, /^lonely +\(expected result\)/m)
    assert.match(output, /^broken +\(file\) +JSON/m)
    assert.match(output, /^odd +\(file\) +a recording +response\.status: is missing$/m)
    assert.match(output, /^foreign +\(api\) +a known one +no decoder for the api "x" of openai/m)
    assert.match(output, /6 differences in 5 of them/)
  })

  it("ends with 1 where nothing can be read", () => {
    const { code, output } = run(Path.join(folder, "unread"))
    assert.match(output, /^broken +\(file\) +JSON/m)
    assert.strictEqual(code, 1)
  })

  it("ends with 2 where there is nothing to compare", () => {
    assert.strictEqual(run(Path.join(folder, "empty")).code, 2)
    assert.strictEqual(run(Path.join(folder, "nowhere")).code, 2)
  })

  it("ends with 2 for options that it does not know", () => {
    assert.match(run("--help").output, /--chunk/)
    assert.strictEqual(run(Path.join(folder, "good"), "--chunks", "1").code, 2)
    assert.strictEqual(run(Path.join(folder, "good"), "--chunk", "-1").code, 2)
  })

  it.skipIf(Need.missing("llm-corpus"))(Need.title("the shared recordings are as expected", "llm-corpus"), () => {
    const { code, output } = run(Path.join(Need.sharedData, "llm-corpus"), "--chunk", "random")
    assert.match(output, /all as expected/)
    assert.strictEqual(code, 0)
  })
})
