// Arrays aligned to cache lines; what is freed is kept for the next picture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include <sys/mman.h>

// Large blocks this thread has freed. Fresh memory has to be cleared by the system first, which would be a tenth of
// all the time, a third with pictures of two megapixels; a thread keeps at most LIMIT bytes, which does for those.
// Blocks are mapped, so that they can be split and joined: what one step of the work leaves serves the next, whatever
// their sizes are.
class Spares {
public:
    static Spares& of_thread() {
        static thread_local Spares spares;
        return spares;
    }

    // A block of at least `bytes`, which becomes the size it has.
    void* take(size_t& bytes) {
        if (bytes < UNIT) {
            bytes = (bytes / LINE + 1) * LINE;
            void* at = std::aligned_alloc(LINE, bytes);
            if (!at) throw std::bad_alloc();
            return at;
        }
        bytes = whole(bytes);
        int best = -1;
        for (int i = 0; i < count_; ++i)
            if (blocks_[i].bytes >= bytes && (best < 0 || blocks_[i].bytes < blocks_[best].bytes)) best = i;
        if (best < 0) return map(bytes);
        const Block block = remove(best);
        if (block.bytes > bytes) add({block.at + bytes, block.bytes - bytes});
        return block.at;
    }

    void give(void* at, size_t bytes) {
        if (bytes < UNIT) return std::free(at);
        Block block{static_cast<char*>(at), bytes};
        for (int i = count_ - 1; i >= 0; --i) {
            const Block other = blocks_[i];
            const bool before = other.at + other.bytes == block.at, after = block.at + block.bytes == other.at;
            if (!(before || after) || other.bytes + block.bytes > LIMIT) continue;
            remove(i);
            block = {before ? other.at : block.at, other.bytes + block.bytes};
        }
        while (count_ && (count_ == MOST || held_ + block.bytes > LIMIT)) unmap(remove(0));
        if (block.bytes > LIMIT) return unmap(block);
        add(block);
    }

    ~Spares() {
        while (count_) unmap(remove(0));
    }

private:
    // UNIT is a multiple of the pages of any system.
    static constexpr size_t LINE = 64, UNIT = 1 << 16, LIMIT = 512 << 20;
    static constexpr int MOST = 64;
    struct Block {
        char* at;
        size_t bytes;
    };

    static size_t whole(size_t bytes) { return (bytes + UNIT - 1) / UNIT * UNIT; }

    static char* map(size_t bytes) {
        void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        return static_cast<char*>(at);
    }

    static void unmap(const Block& block) { munmap(block.at, block.bytes); }

    void add(const Block& block) {
        blocks_[count_++] = block;
        held_ += block.bytes;
    }

    Block remove(int i) {
        const Block block = blocks_[i];
        std::memmove(blocks_ + i, blocks_ + i + 1, (--count_ - i) * sizeof(Block));
        held_ -= block.bytes;
        return block;
    }

    Block blocks_[MOST];
    int count_ = 0;
    size_t held_ = 0;
};

template <class T>
class Array {
    static_assert(std::is_trivially_copyable<T>::value);

public:
    Array() = default;
    explicit Array(size_t size) { reserve(size), size_ = size; }
    Array(size_t size, int byte) : Array(size) { std::memset(static_cast<void*>(data_), byte, size * sizeof(T)); }
    Array(Array&& other) noexcept { swap(other); }
    Array& operator=(Array&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Array() {
        if (data_) Spares::of_thread().give(data_, bytes_);
    }

    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }
    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return size_; }

    // Room for `more` elements past the end, or for `expected` in all if there is none; returns where they begin.
    T* room(size_t more, size_t expected = 0) {
        if ((size_ + more) * sizeof(T) > bytes_) {
            const size_t least = size_ + more + size_ / 4;
            reserve(expected > least ? expected : least);
        }
        return data_ + size_;
    }

    // `more` elements at the end, which the caller fills or has filled; returns the first of them.
    T* extend(size_t more) {
        T* const first = room(more);
        size_ += more;
        return first;
    }

private:
    void swap(Array& other) noexcept {
        std::swap(data_, other.data_), std::swap(size_, other.size_), std::swap(bytes_, other.bytes_);
    }

    void reserve(size_t capacity) {
        size_t bytes = capacity * sizeof(T);
        T* fresh = static_cast<T*>(Spares::of_thread().take(bytes));
        if (size_) std::memcpy(static_cast<void*>(fresh), data_, size_ * sizeof(T));
        if (data_) Spares::of_thread().give(data_, bytes_);
        data_ = fresh, bytes_ = bytes;
    }

    T* data_ = nullptr;
    size_t size_ = 0, bytes_ = 0;
};
