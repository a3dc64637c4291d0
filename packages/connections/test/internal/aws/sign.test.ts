import { assert, describe, it } from "@effect/vitest"
import { Redacted } from "effect"
import * as Sign from "../../../src/internal/aws/sign.ts"

// The vectors that AWS publishes: "Signature Calculations for the Authorization Header" and "Authenticating Requests:
// Using Query Parameters" of the S3 API reference, the test suite of Signature Version 4, and the IAM example of the
// general reference.
const s3Credentials: Sign.Credentials = {
  accessKeyId: "AKIAIOSFODNN7EXAMPLE",
  secretAccessKey: Redacted.make("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
}
const suiteCredentials: Sign.Credentials = {
  accessKeyId: "AKIDEXAMPLE",
  secretAccessKey: Redacted.make("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
}
const s3Now = new Date("2013-05-24T00:00:00Z")
const suiteNow = new Date("2015-08-30T12:36:00Z")

const signature = (headers: Record<string, string>): string =>
  /Signature=([0-9a-f]+)$/.exec(headers["authorization"] ?? "")?.[1] ?? ""

const s3 = (method: string, url: string, headers: Record<string, string> = {}, payloadHash = Sign.emptyPayloadHash) =>
  signature(
    Sign.signHeaders({
      method,
      url: new URL(url),
      headers,
      payloadHash,
      region: "us-east-1",
      service: "s3",
      credentials: s3Credentials,
      now: s3Now
    })
  )

const suite = (method: string, url: string, headers: Record<string, string> = {}, body = "") =>
  signature(
    Sign.signHeaders({
      method,
      url: new URL(url, "https://example.amazonaws.com"),
      headers,
      payloadHash: Sign.sha256Hex(body),
      region: "us-east-1",
      service: "service",
      credentials: suiteCredentials,
      now: suiteNow
    })
  )

describe("Signature Version 4", () => {
  it("S3: get an object's range", () => {
    assert.strictEqual(
      s3("GET", "https://examplebucket.s3.amazonaws.com/test.txt", { Range: "bytes=0-9" }),
      "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
  })

  it("S3: put an object whose key has a sign to encode", () => {
    assert.strictEqual(
      s3(
        "PUT",
        "https://examplebucket.s3.amazonaws.com/test%24file.text",
        { Date: "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY" },
        Sign.sha256Hex("Welcome to Amazon S3.")
      ),
      "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )
  })

  it("S3: a parameter without a value", () => {
    assert.strictEqual(
      s3("GET", "https://examplebucket.s3.amazonaws.com/?lifecycle"),
      "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )
  })

  it("S3: list objects", () => {
    assert.strictEqual(
      s3("GET", "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J"),
      "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )
  })

  it("S3: a presigned URL", () => {
    const url = Sign.presign(
      {
        method: "GET",
        url: new URL("https://examplebucket.s3.amazonaws.com/test.txt"),
        headers: {},
        region: "us-east-1",
        service: "s3",
        credentials: s3Credentials,
        now: s3Now
      },
      86_400
    )
    assert.strictEqual(
      url.searchParams.get("X-Amz-Signature"),
      "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    assert.strictEqual(url.searchParams.get("X-Amz-Expires"), "86400")
  })

  it("IAM: list users, with a content type", () => {
    const headers = Sign.signHeaders({
      method: "GET",
      url: new URL("https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08"),
      headers: { "Content-Type": "application/x-www-form-urlencoded; charset=utf-8" },
      payloadHash: Sign.emptyPayloadHash,
      region: "us-east-1",
      service: "iam",
      credentials: suiteCredentials,
      now: suiteNow
    })
    assert.strictEqual(signature(headers), "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7")
    assert.strictEqual(headers["x-amz-date"], "20150830T123600Z")
    assert.notProperty(headers, "x-amz-content-sha256")
    assert.notProperty(headers, "host")
  })

  it("the suite: get-vanilla", () => {
    assert.strictEqual(suite("GET", "/"), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
  })

  it("the suite: get-vanilla-query-order-key-case", () => {
    assert.strictEqual(
      suite("GET", "/?Param2=value2&Param1=value1"),
      "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
    )
  })

  it("the suite: post-vanilla", () => {
    assert.strictEqual(suite("POST", "/"), "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
  })

  it("the suite: get-header-value-trim", () => {
    assert.strictEqual(
      suite("GET", "/", { "My-Header1": " value1", "My-Header2": ' "a   b   c"' }),
      "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"
    )
  })

  it("the suite: get-vanilla-utf8-query", () => {
    assert.strictEqual(suite("GET", "/?ሴ=bar"), "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04")
  })

  it("what proxies add or change is not signed, what is signed does not change with the order of headers", () => {
    const plain = suite("GET", "/", { "x-amz-meta-a": "1", range: "bytes=0-1" })
    assert.strictEqual(
      suite("GET", "/", { range: "bytes=0-1", traceparent: "00-…", "user-agent": "x", "x-amz-meta-a": "1" }),
      plain
    )
    assert.notStrictEqual(suite("GET", "/", { range: "bytes=0-2", "x-amz-meta-a": "1" }), plain)
  })

  it("the session token is sent and signed, in headers and in the query", () => {
    const input = {
      method: "GET",
      url: new URL("https://examplebucket.s3.amazonaws.com/test.txt"),
      headers: {},
      region: "us-east-1",
      service: "s3",
      credentials: { ...s3Credentials, sessionToken: Redacted.make("a+token/=") },
      now: s3Now
    } as const
    const headers = Sign.signHeaders({ ...input, payloadHash: Sign.unsignedPayload })
    assert.strictEqual(headers["x-amz-security-token"], "a+token/=")
    assert.include(headers["authorization"], "x-amz-security-token")
    assert.strictEqual(headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD")
    const url = Sign.presign(input, 60)
    assert.include(url.search, "X-Amz-Security-Token=a%2Btoken%2F%3D")
  })

  it("keys of a day are not mixed up when a secret is rotated", () => {
    const rotated = { ...s3Credentials, secretAccessKey: Redacted.make("another") }
    const of = (credentials: Sign.Credentials) =>
      signature(
        Sign.signHeaders({
          method: "GET",
          url: new URL("https://examplebucket.s3.amazonaws.com/test.txt"),
          headers: { Range: "bytes=0-9" },
          payloadHash: Sign.emptyPayloadHash,
          region: "us-east-1",
          service: "s3",
          credentials,
          now: s3Now
        })
      )
    const first = of(s3Credentials)
    assert.notStrictEqual(of(rotated), first)
    assert.strictEqual(of(s3Credentials), first)
  })

  it("encodes as RFC 3986 says", () => {
    assert.strictEqual(Sign.encode("a b/ü!'()*~-._"), "a%20b%2F%C3%BC%21%27%28%29%2A~-._")
  })
})
