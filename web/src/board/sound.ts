// The sound of a basket that needs somebody. It is made here; nothing is loaded.

let audio: AudioContext | null = null;

/** Two short tones, soft enough for a shop. */
export function ring(): void {
  try {
    audio ??= new AudioContext();
    void audio.resume();
    const at = audio.currentTime;
    [660, 880].forEach((pitch, step) => {
      if (audio === null) return;
      const tone = audio.createOscillator();
      const volume = audio.createGain();
      const begins = at + step * 0.16;
      tone.frequency.value = pitch;
      volume.gain.setValueAtTime(0, begins);
      volume.gain.linearRampToValueAtTime(0.12, begins + 0.02);
      volume.gain.exponentialRampToValueAtTime(0.001, begins + 0.3);
      tone.connect(volume).connect(audio.destination);
      tone.start(begins);
      tone.stop(begins + 0.32);
    });
  } catch {
    // No sound on this device.
  }
}
