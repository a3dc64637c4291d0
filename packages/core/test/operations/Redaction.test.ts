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
})
