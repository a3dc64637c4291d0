import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, FastCheck, HashMap, Option, Redacted } from "effect"
import * as Redaction from "../../src/operations/Redaction.ts"

describe("Redaction", () => {
  it("knows the names of secrets in every spelling", () => {
    for (const name of [
      "password",
      "DB_PASSWORD",
      "dbPass",
      "DB_PASS",
      "apiKey",
      "api-key",
      "OPENAI_API_KEY",
      "x-api-key",
      "Authorization",
      "proxy-authorization",
      "clientSecret",
      "refresh_token",
      "accessToken",
      "refreshTokens",
      "Set-Cookie",
      "awsSecretAccessKey",
      "privateKey",
      "connectionString",
      "jwt"
    ]) {
      assert.isTrue(Redaction.isSecretName(name), name)
    }
    for (const name of [
      "host",
      "tokens",
      "maxTokens",
      "max_tokens",
      "promptTokens",
      "completion_tokens",
      "tokenCount",
      "token_limit",
      "tokenizer",
      "tokensPerMinute",
      "keyboard",
      "monkey",
      "author",
      "passenger",
      "compass",
      "user",
      ""
    ]) {
      assert.isFalse(Redaction.isSecretName(name), name)
    }
  })

  it("takes secrets out of text by their form", () => {
    const secret = "s3cr3t-Value"
    for (const text of [
      `postgres://user:${secret}@db:5432/app`,
      `redis://:${secret}@localhost`,
      `https://${secret}@example.org/path`,
      `password=${secret}`,
      `Error: failed: password=${secret}`,
      `a=b password: ${secret}==`,
      `Password: "${secret}"`,
      `{"apiKey":"${secret}","host":"db"}`,
      `api_key='${secret}' and more`,
      `Authorization: Bearer ${secret}`,
      `GET /?access_token=${secret}&page=2`,
      `-----BEGIN RSA PRIVATE KEY-----\n${secret}\n-----END RSA PRIVATE KEY-----`
    ]) {
      assert.notInclude(Redaction.text(text), secret, text)
    }
    assert.notInclude(Redaction.text("failed with sk-abcdefghijklmnop1234"), "abcdefghijklmnop")
    assert.notInclude(Redaction.text("token eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"), "eyJzdWIiOiIx")
    assert.strictEqual(
      Redaction.text("connect ECONNREFUSED 127.0.0.1:6379 after 3 attempts"),
      "connect ECONNREFUSED 127.0.0.1:6379 after 3 attempts"
    )
    assert.strictEqual(Redaction.text("see https://example.org:8080/a?page=2"), "see https://example.org:8080/a?page=2")
  })

  it("takes out passwords that a URL should have encoded, whole header values, and JSON inside JSON", () => {
    const cases: ReadonlyArray<readonly [text: string, shown: string]> = [
      ["postgres://u:hun/ter2#x?@db:5432/app", "postgres://u:<redacted>@db:5432/app"],
      ["kafka://u:hunter2@h1,kafka://u:hunter2@h2", "kafka://u:<redacted>@h1,kafka://u:<redacted>@h2"],
      ["http://host:8080/path@v1", "http://host:8080/path@v1"],
      ["Cookie: theme=dark; session=hunter2", "Cookie: <redacted>"],
      ["Authorization: Negotiate hunter2\nnext", "Authorization: <redacted>\nnext"],
      ["Authorization: Bearer hunter2hunter2 failed with 401", "Authorization: Bearer <redacted> failed with 401"],
      [
        String.raw`{\"password\":\"hunter2\",\"user\":\"bob\"}`,
        String.raw`{\"password\":<redacted>\",\"user\":\"bob\"}`
      ],
      ["1password=hunter2", "1password=<redacted>"]
    ]
    for (const [given, shown] of cases) {
      assert.strictEqual(Redaction.text(given), shown)
    }
  })

  it("takes time in proportion to the text, whatever stands in it (100,000 letters took 17 s)", () => {
    const began = process.cpuUsage()
    for (const piece of ["a", "a.b-c_", "eyJaaaaa-", "a://x", "://u:p", 'password=\\"', "tokenper", "cookie:x", " ="]) {
      Redaction.text(piece.repeat(100_000 / piece.length))
      Redaction.text(`a://${piece.repeat(100_000 / piece.length)}`)
      Redaction.isSecretName(piece.repeat(100_000 / piece.length))
    }
    assert.isBelow(process.cpuUsage(began).user / 1_000_000, 6)
  })

  it("a value that is shared many times over is not copied without end", () => {
    let shared: unknown = { x: 1 }
    for (let level = 0; level < 11; level++) {
      shared = [shared, shared, shared, shared]
    }
    assert.isBelow(JSON.stringify(Redaction.json({ shared, after: 1 })).length, 200_000)
  })

  it("takes them out in any depth, through causes of errors, maps and wrappers (pino redacts to a fixed depth only)", () => {
    const deep = (levels: number): unknown => (levels === 0 ? { password: "hunter2" } : { inner: deep(levels - 1) })
    const failed = new Error("request failed", {
      cause: Object.assign(new Error("inner"), { config: { headers: { Authorization: "Bearer hunter2hunter2" } } })
    })
    const circle: Record<string, unknown> = { password: "hunter2" }
    circle.self = circle
    const shown = JSON.stringify(
      Redaction.json({
        deep: deep(6),
        tooDeep: deep(40),
        failed,
        circle,
        map: new Map([["secret", "hunter2"]]),
        hash: HashMap.make(["token", "hunter2"]),
        option: Option.some(Redacted.make("hunter2")),
        list: [[[{ apiKey: "hunter2" }]]],
        cause: Cause.fail(new Error("password=hunter2")),
        opaque: new (class Client {
          readonly password = "hunter2"
        })()
      })
    )
    assert.notInclude(shown, "hunter2")
    assert.include(shown, "[circular]")
    assert.include(shown, "[Client]")
  })

  it("keeps what is not secret, as JSON", () => {
    assert.deepStrictEqual(
      Redaction.json({
        text: "a",
        count: 1,
        maxTokens: 4096,
        big: 10n,
        nan: Number.NaN,
        none: Option.none(),
        missing: undefined,
        time: Duration.seconds(90),
        at: new Date(0),
        hasPassword: true
      }),
      {
        text: "a",
        count: 1,
        maxTokens: 4096,
        big: "10",
        nan: "NaN",
        none: null,
        time: "1m 30s",
        at: "1970-01-01T00:00:00.000Z",
        hasPassword: true
      }
    )
  })

  it("never fails and always gives JSON, and no value under a secret name survives", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.anything({ withBigInt: true, withDate: true, withMap: true, withSet: true, withTypedArray: true }),
        FastCheck.stringMatching(/^[a-z0-9]{12,20}$/),
        (value, secret) => {
          const shown = JSON.stringify(
            Redaction.json({ value, inner: { apiKey: secret, list: [{ password: secret }] } })
          )
          return !shown.includes(`"${secret}"`) || JSON.stringify(value)?.includes(secret) === true
        }
      )
    )
  })

  it("shows of a short text what it shows of the same in a long one", () => {
    const letters = FastCheck.string({
      maxLength: 4,
      unit: FastCheck.constantFrom(..."aZ09_-./+:=@ \t\n\u00a0\ufeff\"'\\")
    })
    const planted = FastCheck.constantFrom(
      ...[
        "sk-",
        "pk_",
        "gsk_",
        "hf_",
        "xoxb-",
        "ghp_",
        "glpat-",
        "AKIA",
        "AIza",
        "eyJ",
        "abcdefghijkl",
        "ABCDEFGHIJKL"
      ],
      ...[
        "eyJhbGci.eyJzd",
        "://u:p@h",
        "https://t@h",
        "Bearer abcdef",
        "pin=1",
        "pwd:x",
        "token=",
        "-----BEGIN PRIVATE KEY-----"
      ]
    )
    const pieces = FastCheck.array(FastCheck.oneof(letters, planted), { maxLength: 4 })
    FastCheck.assert(
      FastCheck.property(pieces, FastCheck.nat(20), (all, length) => {
        for (const value of [all.join(""), all.join("").slice(0, length)]) {
          const before = "\n".repeat(20)
          assert.strictEqual(Redaction.text(value), Redaction.text(before + value).slice(before.length))
        }
      }),
      { numRuns: 5_000 }
    )
  })

  it("keeps nothing of the texts that it has seen", () => {
    setFlagsFromString("--expose-gc")
    const collect: () => void = runInNewContext("gc")
    const held = () => {
      collect()
      return process.memoryUsage().heapUsed
    }
    const before = held()
    for (let index = 0; index < 200; index++) {
      // A name that is cut out of a text holds the whole of it.
      const text = `${Buffer.alloc(200_000, "x ").toString("latin1")} a_name_of_this_text_only_${index}: 5`
      Redaction.text(text)
      Redaction.isSecretName(text.slice(-30, -3))
      Redaction.json(new Map([[text.slice(-29, -4), 1]]))
    }
    assert.isBelow(held() - before, 10_000_000)
  })

  it("tells of a name the second time what it told the first, of more names than it remembers", () => {
    const names = Array.from({ length: 3_000 }, (_, index) => [`user_${index}_password`, `user_${index}_name`] as const)
    for (let time = 0; time < 2; time++) {
      for (const [secret, name] of names) {
        assert.isTrue(Redaction.isSecretName(secret))
        assert.isFalse(Redaction.isSecretName(name))
      }
    }
  })
})
